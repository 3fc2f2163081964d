"""Figures for W&B: rows before and after clustering, and the filters of positions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import nn

from lit_share import CodebookLinear, LocallyConnected1d, LocallyConnected2d, Ties, share, tie_rows
from lit_share.lab.app._figures import filters_to_draw, log_clusters, log_positions, weights_to_draw
from lit_share.lab.app.run import run

from .conftest import Compose


class Recorded(WandbLogger):
    """A W&B logger without W&B."""

    def __init__(self) -> None:
        self.logged: list[dict] = []

    @property
    def experiment(self) -> Recorded:  # type: ignore[override]
        return self

    def log(self, entry: dict) -> None:
        self.logged.append(entry)


@pytest.fixture
def logger() -> Recorded:
    return Recorded()


def clustered() -> nn.Sequential:
    """Two layers: the first has four rows equal to others and a zero row, the second a zero row."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        net[0].weight[:, 4:8] = net[0].weight[:, :4]
        net[0].weight[:, 8] = 0.0
        net[2].weight[:, 0] = 0.0
    return net


def test_clusters(logger: Recorded) -> None:
    net = clustered()
    ties = Ties("*.weight")
    before = weights_to_draw([logger], ties.find(net))
    report = tie_rows(net, ties, similarity=0.999)
    assert isinstance(net[0], CodebookLinear)
    assert isinstance(net[2], CodebookLinear)
    log_clusters([logger], net, before, report, step=7)
    # In the second layer no rows became one.
    (entry,) = logger.logged
    figure = entry.pop("clusters/0.weight")
    assert entry == {"trainer/global_step": 7}
    assert [a.text for a in figure.layout.annotations] == ["before: 8 rows", "after: 4 clusters"]
    assert figure.layout.title.text == "0.weight"


def test_a_layer_alone(logger: Recorded) -> None:
    layer = LocallyConnected1d(1, 2, 3, input_size=6)
    start = filters_to_draw([logger], layer)
    assert list(start) == ["weight"]
    with torch.no_grad():
        layer.weight[:, 0] = 0.0
    log_positions([logger], layer, start, step=1)
    figure = logger.logged[0]["positions/weight"]
    assert figure.layout.title.text == "weight, output 1, input 0"
    assert [[*row] for row in figure.data[0].z] == [
        [pytest.approx(x, rel=1e-3) if i % 4 < 3 else None for i, x in enumerate(flat)]
        for flat in [
            torch.cat([start["weight"][:, 1, 0], torch.zeros(4, 1)], dim=1).flatten().tolist()[:-1]
        ]
    ]


def test_positions(logger: Recorded) -> None:
    net = nn.Sequential(
        LocallyConnected2d(2, 3, 3, input_size=(5, 6)), nn.ReLU(), LocallyConnected2d(3, 1, 2, 3)
    )
    start = filters_to_draw([logger], net)
    with torch.no_grad():
        net[0].weight[:, 1, 1] += 10.0
    share(net, Ties("2.*[:]"))  # which becomes a convolution
    log_positions([logger], net, start, step=7)
    (entry,) = logger.logged
    figure = entry.pop("positions/0.weight")
    assert entry == {"trainer/global_step": 7}
    assert figure.layout.title.text == "0.weight, output 1, input 1"
    assert [a.text for a in figure.layout.annotations] == ["start", "end"]
    begin, end = figure.data
    assert end.z[0][0] == pytest.approx(net[0].weight[0, 1, 1, 0, 0].item(), rel=1e-3)
    assert begin.z[0][0] == pytest.approx(end.z[0][0] - 10.0, abs=0.01)
    assert (len(begin.z), len(begin.z[0])) == (3 * 4 - 1, 4 * 4 - 1)


def test_what_is_not_finite_is_not_drawn(logger: Recorded) -> None:
    layer = LocallyConnected1d(1, 1, 2, input_size=3)
    start = filters_to_draw([logger], layer)
    with torch.no_grad():
        layer.weight[0] = torch.nan
    log_positions([logger], layer, start, step=1)
    assert logger.logged == []


def test_layers_of_many_positions_are_left_out(logger: Recorded) -> None:
    assert filters_to_draw([logger], LocallyConnected2d(1, 1, 1, input_size=33)) == {}


def test_nothing_is_copied_for_other_loggers(tmp_path: Path) -> None:
    others = [CSVLogger(tmp_path)]
    net = nn.Sequential(LocallyConnected2d(1, 1, 2, input_size=3))
    assert filters_to_draw(others, net) == {}
    assert weights_to_draw(others, Ties("*.weight").find(net)) == {}
    log_positions(others, net, {}, step=1)


def drawn(folder: Path, name: str) -> list[dict]:
    files = folder.glob(f"wandb/offline-run-*/files/media/plotly/{name}/*.json")
    return [json.loads(file.read_text()) for file in sorted(files)]


@pytest.mark.slow
def test_a_run_with_codebooks(compose_config: Compose, tmp_path: Path) -> None:
    options = (
        "debug=fast",
        "callbacks=quiet",
        "logger=wandb",
        "regularizer=growl",
        "retrain.similarity=0.2",
    )
    run(compose_config(*options, output_dir=tmp_path), tmp_path, [])
    figures = drawn(tmp_path, "clusters")
    assert figures
    assert all(figure["layout"]["title"]["text"].endswith(".weight") for figure in figures)


@pytest.mark.slow
def test_a_run_with_positions(compose_config: Compose, tmp_path: Path) -> None:
    options = (
        "debug=fast",
        "callbacks=quiet",
        "logger=wandb",
        "experiment=position_sharing",
        "logger=wandb",
    )
    fast = ("regularizer=soft_tie", "trainer.max_steps=2", "data.n_train=50", "data.canvas=12")
    run(compose_config(*options, *fast, output_dir=tmp_path), tmp_path, [])
    assert len(drawn(tmp_path, "positions")) == 2
