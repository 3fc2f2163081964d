"""`SharingMonitor`, against numbers that are counted here."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import math

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.functional import Penalty
from lit_share.penalties import Ramp
from lit_share.ties import TieError, Ties

from ._modules import Two, fit, mlp

PAIR = Ties("a.*", "b.*")
EXACT_TIE = Penalty("l1", "element", "mean")
LASSO = Penalty("l1", "element", "zero")
LEAVES = ("0.weight", "0.bias", "2.weight", "2.bias")


class Kept(Callback):
    """Keeps the weights at the start and after every epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_start(self, trainer, pl_module):
        self.epochs.append({name: p.detach().numpy().copy() for name, p in all_names(pl_module)})

    def on_train_epoch_end(self, trainer, pl_module):
        self.on_train_start(trainer, pl_module)


def all_names(module):
    return module.named_parameters(remove_duplicate=False)


def distance(*leaves, of, models="ab"):
    """√(Σ_{i<j} ‖W_i − W_j‖² / ((N − 1) Σ ‖W_i‖²)), summed over the leaves."""
    between = size = 0.0
    for leaf in leaves:
        members = [of[f"{model}.{leaf}"] for model in models]
        between += sum(np.sum((x - y) ** 2) for x, y in itertools.combinations(members, 2))
        size += (len(members) - 1) * sum(np.sum(w**2) for w in members)
    return math.sqrt(between / size)


def counts(of, models="ab"):
    """Count numbers, zeros, different numbers, and positions at which all models are equal."""
    total = sum(w.size for w in of.values())
    zeros = sum(int(np.sum(w == 0.0)) for w in of.values())
    unique = tied = 0
    for leaf in LEAVES:
        for numbers in np.stack([of[f"{model}.{leaf}"].ravel() for model in models], axis=1):
            unique += len(set(numbers[numbers != 0.0]))
            tied += len(set(numbers)) == 1
    return total, zeros, unique, tied


def clusters(of, models="ab"):
    """Count the different members of each tie."""
    return sum(len({of[f"{model}.{leaf}"].tobytes() for model in models}) for leaf in LEAVES)


def logged(made):
    """What went to the CSVLogger, epoch by epoch."""
    made.logger.save()
    with open(f"{made.logger.log_dir}/metrics.csv", encoding="utf-8") as file:  # noqa: PTH123
        return [
            {key: float(value) for key, value in row.items() if value != ""}
            for row in csv.DictReader(file)
        ]


def watched(module, *callbacks, **options):
    """The rows that were logged, and the weights at the start and after every epoch."""
    kept = Kept()
    made = fit(module, kept, *callbacks, logger=CSVLogger("logs"), log_every_n_steps=1, **options)
    return logged(made), kept.epochs


def test_values_epoch_by_epoch():
    ramp = Ramp(duration=3, start=0.5, unit="epochs")
    callbacks = [
        SharingMonitor(),
        Regularize(LASSO, Ties("a.*"), 0.1),
        Regularize(EXACT_TIE, PAIR, 0.2, ramp),
    ]
    rows, weights = watched(Two(), *callbacks, epochs=4)
    assert len(rows) == 4
    for epoch, (row, of) in enumerate(zip(rows, weights[1:], strict=True)):
        total, zeros, unique, tied = counts(of)
        apart = sum(np.sum(np.abs(of[f"a.{leaf}"] - of[f"b.{leaf}"])) for leaf in LEAVES)
        size = sum(np.sum(np.abs(of[f"a.{leaf}"])) for leaf in LEAVES)
        strength = 0.2 * (0.5 + 0.5 * min(epoch / 3, 1.0))
        expected = {
            "sharing/penalty": strength * apart + 0.1 * size,
            "sharing/distance": distance(*LEAVES, of=of),
            **{f"sharing/distance_of/{leaf}": distance(leaf, of=of) for leaf in LEAVES},
            "sharing/tied": tied / 23,
            "sharing/clusters": clusters(of),
            "sharing/sparsity": zeros / total,
            "sharing/unique": unique,
            "sharing/compression": total / unique,
        }
        found = {key: value for key, value in row.items() if key.startswith("sharing/")}
        assert found == pytest.approx(expected, rel=1e-6)
    assert 0.0 < rows[-1]["sharing/tied"] < 1.0


def test_penalty_of_the_distance_to_the_start():
    l2_sp = Penalty("squared", "element", "start")
    rows, weights = watched(Two(), SharingMonitor(), Regularize(l2_sp, Ties("*"), 0.3))
    moved = sum(np.sum((weights[-1][name] - start) ** 2) for name, start in weights[0].items())
    assert rows[-1]["sharing/penalty"] == pytest.approx(0.3 * 0.5 * moved, rel=1e-6)


def test_zeros():
    rows, weights = watched(Two(), SharingMonitor(), Regularize(LASSO, Ties("*"), 0.3))
    total, zeros, unique, _ = counts(weights[-1])
    assert rows[-1]["sharing/sparsity"] == pytest.approx(zeros / total)
    assert 0 < rows[-1]["sharing/unique"] == unique == total - zeros < total


def keys(*callbacks, module=None):
    rows, _ = watched(Two() if module is None else module, *callbacks, epochs=1)
    return {
        key.removeprefix("sharing/") for row in rows for key in row if key.startswith("sharing/")
    }


ALWAYS = {"sparsity", "unique", "compression"}
OF_TIES = {"distance", "tied", "clusters"}
OF_EACH = {f"distance_of/{leaf}" for leaf in LEAVES}


def test_names():
    assert keys(SharingMonitor(PAIR)) == ALWAYS | OF_TIES | OF_EACH
    assert keys(SharingMonitor(PAIR, per_tie=False)) == ALWAYS | OF_TIES
    assert keys(SharingMonitor(Ties("a.0.*", "b.0.*"))) == ALWAYS | OF_TIES | {
        "distance_of/weight",
        "distance_of/bias",
    }
    assert keys(
        SharingMonitor(), Regularize(EXACT_TIE, PAIR, 0.1)
    ) == ALWAYS | OF_TIES | OF_EACH | {"penalty"}
    assert keys(SharingMonitor(), Share(PAIR)) == ALWAYS | OF_TIES | OF_EACH
    # One member each: there is no distance.
    assert keys(SharingMonitor(), Regularize(LASSO, Ties("*"), 0.1)) == ALWAYS | {"penalty"}
    assert keys(SharingMonitor()) == ALWAYS


def test_hard_sharing():
    rows, weights = watched(Two(), SharingMonitor(), Share(PAIR), epochs=1)
    assert rows[-1]["sharing/distance"] == 0.0
    assert rows[-1]["sharing/tied"] == 1.0
    assert rows[-1]["sharing/clusters"] == 4
    assert rows[-1]["sharing/unique"] == 23
    assert rows[-1]["sharing/compression"] == 2.0
    assert counts(weights[-1])[2] == 23


class Three(Two):
    def __init__(self):
        super().__init__()
        self.c = mlp(2)


THREE = Ties("a.*", "b.*", "c.*")


def test_three_members():
    rows, weights = watched(
        Three(), SharingMonitor(THREE), Regularize(EXACT_TIE, Ties("a.*", "c.*"), 0.3)
    )
    of = weights[-1]
    total, _, unique, tied = counts(of, "abc")
    assert rows[-1]["sharing/distance"] == pytest.approx(distance(*LEAVES, of=of, models="abc"))
    assert rows[-1]["sharing/unique"] == unique < total
    assert rows[-1]["sharing/tied"] == tied / 23
    assert rows[-1]["sharing/clusters"] == clusters(of, "abc") < 12


def test_clusters():
    """A strong penalty makes all layers of two of three models equal."""
    layer_tie = Regularize("layer_tie", Ties("a.*", "c.*"), 50.0)
    monitor = SharingMonitor(THREE, prog_bar=["sharing/clusters"])
    rows, weights = watched(Three(), monitor, layer_tie)
    assert rows[-1]["sharing/clusters"] == clusters(weights[-1], "abc") == 8


def test_ties_of_several_callbacks_are_watched_once():
    some = Ties("a.0.*", "b.0.*")
    callbacks = [
        Regularize(EXACT_TIE, PAIR, 0.3),
        Regularize(Penalty("squared", "element", "mean"), some, 0.1),
    ]
    rows, weights = watched(Two(), SharingMonitor(), *callbacks)
    assert rows[-1]["sharing/unique"] == counts(weights[-1])[2]
    assert rows[-1]["sharing/distance"] == pytest.approx(distance(*LEAVES, of=weights[-1]))


def test_ties_of_several_callbacks_that_have_the_same_names():
    """The stars of both stand for "weight" and "bias"."""
    first, second = Ties("a.0.*", "b.0.*"), Ties("a.2.*", "b.2.*")
    monitor = SharingMonitor()
    rows, weights = watched(Two(), monitor, Regularize(EXACT_TIE, first, 0.3), Share(second))
    expected = sorted(distance(leaf, of=weights[-1]) for leaf in LEAVES)
    assert sorted(history[-1] for history in monitor.history.values()) == pytest.approx(expected)
    assert sum(key.startswith("sharing/distance_of/") for key in rows[-1]) == 4


def test_own_ties_go_before_those_of_callbacks():
    some = Ties("a.2.*", "b.2.*")
    rows, weights = watched(Two(), Regularize(EXACT_TIE, PAIR, 0.3), SharingMonitor(some))
    assert rows[-1]["sharing/distance"] == pytest.approx(
        distance("2.weight", "2.bias", of=weights[-1])
    )


def test_a_checkpoint_can_follow_what_is_logged():
    best = ModelCheckpoint("checkpoints", monitor="sharing/distance", mode="min")
    rows, _ = watched(
        Two(),
        SharingMonitor(),
        Regularize(EXACT_TIE, PAIR, 0.3),
        best,
        epochs=3,
        enable_checkpointing=True,
    )
    assert float(best.best_model_score) == pytest.approx(
        min(row["sharing/distance"] for row in rows), rel=1e-6
    )


def test_two_monitors_are_refused():
    """They would log under the same names, and Lightning would log the mean of both."""
    with pytest.raises((RuntimeError, ValueError)):
        fit(Two(), SharingMonitor(Ties("a.0.*", "b.0.*")), SharingMonitor(Ties("a.2.*", "b.2.*")))


def test_wrong_patterns_before_training():
    module = Two()
    with pytest.raises(TieError, match=r"'c\.\*' matches no parameter"):
        fit(module, SharingMonitor(Ties("a.*", "c.*")))
    assert module.steps_taken == 0


# History


def assert_history(monitor, weights):
    assert set(monitor.history) == set(LEAVES)
    for leaf in LEAVES:
        assert monitor.history[leaf] == pytest.approx([distance(leaf, of=of) for of in weights])


def test_history_is_of_the_start_and_every_epoch():
    monitor = SharingMonitor(PAIR)
    _, weights = watched(Two(), monitor, epochs=3)
    assert len(weights) == 4
    assert_history(monitor, weights)


def test_history_survives_resuming():
    kept, monitor, again = Kept(), SharingMonitor(PAIR), SharingMonitor(PAIR)
    made = fit(Two(), kept, monitor, epochs=2)
    made.save_checkpoint("half.ckpt")
    (state,) = torch.load("half.ckpt", weights_only=True)["callbacks"].values()
    assert state == {"history": monitor.history}
    resumed = Kept()
    fit(Two(), resumed, again, epochs=4, ckpt_path="half.ckpt")
    assert_history(again, kept.epochs + resumed.epochs[1:])


@pytest.mark.filterwarnings(
    "ignore:.*callbacks used to create the checkpoint need to be provided.*"
)
@pytest.mark.filterwarnings(
    "ignore:.*resuming from a checkpoint that ended before the epoch ended.*"
)
def test_history_survives_resuming_within_the_first_epoch():
    within = ModelCheckpoint("checkpoints", every_n_train_steps=4, save_top_k=-1)
    start, resumed, again = Kept(), Kept(), SharingMonitor(PAIR)
    fit(Two(), start, SharingMonitor(PAIR), within, epochs=1, enable_checkpointing=True)
    fit(Two(), resumed, again, epochs=2, ckpt_path="checkpoints/epoch=0-step=4.ckpt")
    assert_history(again, start.epochs[:1] + resumed.epochs[1:])


def test_history_starts_afresh_with_a_new_fit():
    monitor, kept = SharingMonitor(PAIR), Kept()
    module = Two()
    fit(module, monitor, epochs=2)
    fit(module, monitor, kept, epochs=1)
    assert_history(monitor, kept.epochs)


# Weights & Biases


@pytest.fixture
def offline(tmp_path, monkeypatch):
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(
        offline=True, save_dir=str(tmp_path), settings=wandb.Settings(console="off")
    )
    yield logger
    wandb.finish()


@pytest.mark.slow
def test_heat_map_goes_to_wandb_once(offline, tmp_path):
    monitor = SharingMonitor(PAIR)
    table = CSVLogger("logs")
    fit(Two(), monitor, epochs=3, logger=[table, offline], log_every_n_steps=1)
    # A pair needs no picture of its clusters.
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/**/*.plotly.json")
    assert "distances" in file.name
    (drawn,) = json.loads(file.read_text(encoding="utf-8"))["data"]
    assert drawn["type"] == "heatmap"
    assert drawn["y"] == list(LEAVES)
    np.testing.assert_allclose(numbers(drawn["z"]), [monitor.history[leaf] for leaf in LEAVES])
    assert not any("sharing/distances" in row for row in table.experiment.metrics)


@pytest.mark.slow
def test_clusters_go_to_wandb(offline, tmp_path):
    layer_tie = Regularize("layer_tie", Ties("a.*", "c.*"), 50.0)
    fit(Three(), SharingMonitor(THREE), layer_tie, logger=offline, log_every_n_steps=1)
    files = tmp_path.glob("wandb/offline-run-*/files/media/**/*cluster_map*.plotly.json")
    (file,) = files
    (drawn,) = json.loads(file.read_text(encoding="utf-8"))["data"]
    assert drawn["y"] == list(LEAVES)
    assert drawn["x"] == ["a", "b", "c"]
    assert numbers(drawn["z"]).tolist() == [[1, 0, 1]] * 4


@pytest.mark.slow
def test_heat_map_can_be_left_out(offline, tmp_path):
    fit(Two(), SharingMonitor(PAIR, heatmap=False), logger=offline, log_every_n_steps=1)
    assert not list(tmp_path.glob("wandb/offline-run-*/files/media/**/*.json"))


def numbers(z):
    """Plotly writes arrays as lists, or as base64."""
    if isinstance(z, dict):
        return np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape(
            [int(n) for n in z["shape"].split(",")]
        )
    return np.array(z)


def test_numbers_inside_a_tensor():
    """Values are clusters; the penalty makes numbers equal, and its value is logged."""
    module = Two()
    tie = Regularize("value_tie", Ties("a.*.weight[...]"), 0.5)
    rows, _ = watched(module, tie, SharingMonitor(), epochs=2)
    weights = [module.a[0].weight.detach(), module.a[2].weight.detach()]
    row = [row for row in rows if "sharing/clusters" in row][-1]
    values = [w.unique().numel() for w in weights]
    assert sum(values) < 12 + 6
    assert row["sharing/clusters"] == sum(values)
    assert row["sharing/tied"] == pytest.approx((12 + 6 - sum(values)) / (11 + 5))
    penalty = Penalty("l1", "element", "graph", edges="all")
    value = 0.5 * sum(float(penalty.value([w], inside=True)) for w in weights)
    assert row["sharing/penalty"] == pytest.approx(value, rel=1e-5)
    assert "sharing/distance_of/a.0.weight" in row
