"""Lightning's own callbacks and loggers see the documented names, and ties stay ties."""

from __future__ import annotations

import io
import re

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lit_share.callbacks import Regularize, Share, SharingMonitor
from lit_share.callbacks import _monitor as monitor
from lit_share.functional import Penalty
from lit_share.local import LocallyConnected1d
from lit_share.ties import Ties

from ._modules import Two, fit, loader, mlp, trainer, weights

PAIR = Ties("a.*", "b.*")
SOFT_TIE = Penalty("squared", "element", "mean")
L2 = Penalty("squared", "element", "zero")
LEAVES = ("0.weight", "0.bias", "2.weight", "2.bias")
DOCUMENTED = re.findall(
    r"^ *``(sharing/\S+)``", SharingMonitor.__doc__.partition("Once per run")[0], flags=re.MULTILINE
)
# What our callbacks log for two models whose members are tied pair by pair.
NAMES = {name for name in DOCUMENTED if "<tie>" not in name}
# Strengths are logged where they are learned; see `test_learned.py`.
PER_TIE = {name for name in DOCUMENTED if "<tie>" in name} - {"sharing/strength_of/<tie>"}
NAMES |= {name.replace("<tie>", leaf) for name in PER_TIE for leaf in LEAVES}


class Validated(Two):
    """Logs another loss, and is validated."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", sum(self.losses(batch)))


def soft_tie(strength=0.5):
    return Regularize(SOFT_TIE, PAIR, strength)


def fit_validated(*callbacks, module=None, **options):
    made = trainer(soft_tie(), SharingMonitor(), *callbacks, **options)
    made.fit(Validated() if module is None else module, loader(), loader())
    return made


class Recorded(Logger):
    """Records logged metrics, epoch by epoch."""

    def __init__(self):
        super().__init__()
        self.rows = []

    name, version = "recorded", 0

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def epochs(self, name):
        return [row[name] for row in self.rows if name in row]


def test_the_documented_names_are_those_that_are_checked():
    assert {name for name in DOCUMENTED if "<tie>" not in name} == set(monitor._NAMES)
    prefixes = monitor._OF_A_TIE, monitor._STRENGTH_OF
    assert [name for name in DOCUMENTED if "<tie>" in name] == [f"{p}<tie>" for p in prefixes]


@pytest.mark.parametrize("other", [None, Share(PAIR)], ids=["alone", "with Share"])
def test_the_names_are_those_documented(other):
    made = fit_validated(*([] if other is None else [other]))
    assert {name for name in made.callback_metrics if name.startswith("sharing")} == NAMES
    assert set(made.callback_metrics) - NAMES == {"train/loss", "val/loss"}
    assert set(made.logged_metrics) - {"epoch"} == set(made.callback_metrics)


def test_names_of_ties_that_are_named_alike():
    """They are those of their members, without the equals sign that MLflow refuses."""
    module = Two()
    module.c, module.d = mlp(2), mlp(3)
    module.c.requires_grad_(False)
    module.d.requires_grad_(False)
    other = Regularize(SOFT_TIE, Ties("a.0.*", "c.0.*"), 0.1)
    made = fit(module, Regularize(SOFT_TIE, Ties("a.0.*", "b.0.*"), 0.1), other, SharingMonitor())
    names = {name for name in made.callback_metrics if name.startswith("sharing/distance_of/")}
    assert names == {
        f"sharing/distance_of/a.0.{leaf} - {m}.0.{leaf}"
        for leaf in ("weight", "bias")
        for m in "bc"
    }


def test_a_penalty_on_whole_layers_does_not_rename_the_ties_of_positions():
    module = Two()
    module.local = LocallyConnected1d(1, 1, 2, input_size=4, dtype=torch.float64)
    regularizers = [Regularize(SOFT_TIE, Ties("local.*[:]"), 0.1), Regularize(L2, Ties("*"), 0.1)]
    made = fit(module, *regularizers, SharingMonitor())
    names = {name for name in made.callback_metrics if name.startswith("sharing/distance_of/")}
    assert names == {"sharing/distance_of/local.weight", "sharing/distance_of/local.bias"}


@pytest.mark.parametrize("ours_first", [True, False])
def test_checkpoints_of_the_least_distance(tmp_path, ours_first):
    """Validation comes before the epoch's end, but the checkpoint has its own epoch's distance."""
    checkpoint = ModelCheckpoint(tmp_path, "{epoch}", monitor="sharing/distance", save_top_k=-1)
    recorded = Recorded()
    ours = [soft_tie(), SharingMonitor()]
    callbacks = [*ours, checkpoint] if ours_first else [checkpoint, *ours]
    made = trainer(
        *callbacks, epochs=3, logger=recorded, log_every_n_steps=1, enable_checkpointing=True
    )
    module = Validated()
    made.fit(module, loader(), loader())
    saved = {
        path.rpartition("epoch=")[2]: value.item()
        for path, value in checkpoint.best_k_models.items()
    }
    distances = recorded.epochs("sharing/distance")
    assert saved == {
        f"{epoch}.ckpt": pytest.approx(distance) for epoch, distance in enumerate(distances)
    }
    assert checkpoint.best_model_score == pytest.approx(min(distances))
    saved_weights = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    apart = size = 0.0
    for leaf in LEAVES:
        a, b = saved_weights[f"a.{leaf}"], saved_weights[f"b.{leaf}"]
        apart, size = apart + (a - b).square().sum(), size + a.square().sum() + b.square().sum()
    assert (apart / size).sqrt().item() == pytest.approx(min(distances), rel=1e-6)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_can_be_monitored(tmp_path, name):
    checkpoint = ModelCheckpoint(tmp_path, monitor=name)
    stopping = EarlyStopping(name, patience=9)
    made = fit_validated(checkpoint, stopping, epochs=1, enable_checkpointing=True)
    assert checkpoint.best_model_score == stopping.best_score == made.callback_metrics[name]


@pytest.mark.parametrize("ours_first", [True, False])
def test_training_stops_at_a_distance(ours_first):
    stopping = EarlyStopping("sharing/distance", stopping_threshold=0.5, patience=99)
    recorded = Recorded()
    ours = [Regularize(SOFT_TIE, PAIR, 0.2), SharingMonitor()]
    callbacks = [*ours, stopping] if ours_first else [stopping, *ours]
    made = trainer(*callbacks, epochs=50, logger=recorded, log_every_n_steps=1)
    made.fit(Validated(), loader(), loader())
    *before, last = recorded.epochs("sharing/distance")
    assert last < 0.5 <= min(before)
    assert made.current_epoch == len(before) + 1 < 50


def test_validation_within_epochs(tmp_path):
    """It comes before the first measurement, as Lightning says; and the documented options help."""
    checkpoint = ModelCheckpoint(tmp_path / "1", monitor="sharing/distance")
    with pytest.raises(
        MisconfigurationException, match=r"could not find the monitored key.*sharing/distance"
    ):
        fit_validated(checkpoint, val_check_interval=0.5, enable_checkpointing=True)
    with pytest.raises(RuntimeError, match=r"metric `sharing/distance` which is not available"):
        fit_validated(EarlyStopping("sharing/distance"), val_check_interval=0.5)
    checkpoint = ModelCheckpoint(
        tmp_path / "2", monitor="sharing/distance", save_on_train_epoch_end=True
    )
    stopping = EarlyStopping("sharing/distance", check_on_train_epoch_end=True)
    recorded = Recorded()
    options = {
        "val_check_interval": 0.5,
        "enable_checkpointing": True,
        "logger": recorded,
        "log_every_n_steps": 1,
    }
    fit_validated(checkpoint, stopping, **options)
    best = pytest.approx(min(recorded.epochs("sharing/distance")))
    assert checkpoint.best_model_score == stopping.best_score == best


def test_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    logger = TensorBoardLogger(tmp_path)
    made = fit_validated(logger=logger, log_every_n_steps=1)
    logger.finalize("success")
    events = event_accumulator.EventAccumulator(logger.log_dir)
    events.Reload()
    assert {name for name in events.Tags()["scalars"] if name.startswith("sharing")} == NAMES
    assert len(events.Scalars("sharing/distance")) == 2
    assert events.Scalars("sharing/distance")[-1].value == pytest.approx(
        made.callback_metrics["sharing/distance"]
    )


@pytest.mark.filterwarnings("ignore")  # MLflow's own
@pytest.mark.parametrize("store", ["folder", "database"])
def test_mlflow(tmp_path, monkeypatch, store):
    """Neither a folder, with a file for each metric, nor a database minds the names."""
    mlflow = pytest.importorskip("mlflow")
    if store == "database":
        pytest.importorskip("sqlalchemy")
        pytest.importorskip("alembic")
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without which MLflow 3 refuses folders
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "mlruns").as_uri() if store == "folder" else f"sqlite:///{tmp_path}/mlflow.db"
    module = Two()
    module.c = mlp(2)
    logger = MLFlowLogger("test", tracking_uri=uri)
    other = Regularize(SOFT_TIE, Ties("a.0.*", "c.0.*"), 0.1)
    made = fit(module, soft_tie(), other, SharingMonitor(), logger=logger, log_every_n_steps=1)
    client = mlflow.tracking.MlflowClient(uri)
    names = set(client.get_run(logger.run_id).data.metrics)
    assert {name for name in names if name.startswith("sharing")} == {
        name for name in made.callback_metrics if name.startswith("sharing")
    }
    history = client.get_metric_history(logger.run_id, "sharing/distance")
    assert len(history) == 2
    assert history[-1].value == pytest.approx(made.callback_metrics["sharing/distance"].item())


class Last(Callback):
    """Keeps the weights at the end of training, before they are replaced by their averages."""

    def on_train_end(self, trainer, pl_module):
        self.weights = weights(pl_module)


def test_averaged_weights_stay_shared():
    last, module = Last(), Two()
    made = fit(module, last, Share(PAIR), SharingMonitor(), EMAWeightAveraging(decay=0.5))
    for leaf in LEAVES:
        one, other = module.get_parameter(f"a.{leaf}"), module.get_parameter(f"b.{leaf}")
        assert one is other
        assert not torch.equal(one, last.weights[f"a.{leaf}"]), "it is an average"
    assert len(list(module.parameters())) == len(LEAVES)
    assert made.callback_metrics["sharing/distance"] == 0.0
    assert made.callback_metrics["sharing/tied"] == 1.0


def test_soft_ties_and_averages():
    """The logged distance is that of the training weights, which averages do not change."""
    last, module = Last(), Two()
    made = fit(module, last, soft_tie(), SharingMonitor(), EMAWeightAveraging(decay=0.5))
    assert not any(torch.equal(p, last.weights[name]) for name, p in module.named_parameters())
    plain = fit(Two(), soft_tie(), SharingMonitor())
    ours = {
        name: value for name, value in plain.callback_metrics.items() if name.startswith("sharing")
    }
    assert ours.keys() == NAMES
    assert {name: made.callback_metrics[name] for name in ours} == ours


SHOWN = ["sharing/distance", "sharing/distance_of/0.weight"]


def test_rich_progress_bar_shows_what_is_asked_for():
    screen = io.StringIO()
    bar = RichProgressBar(console_kwargs={"file": screen, "force_terminal": True, "width": 400})
    module = Validated()
    made = trainer(soft_tie(), SharingMonitor(prog_bar=SHOWN), bar, enable_progress_bar=True)
    made.fit(module, loader(), loader())
    assert set(bar.get_metrics(made, module)) & NAMES == set(SHOWN)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    distance = made.callback_metrics["sharing/distance"].item()
    assert f"sharing/distance: {distance:.3f}" in shown.replace("\n", " ")
    assert "sharing/tied" not in shown


def test_the_progress_bar_shows_nothing_unasked():
    bar = TQDMProgressBar()
    made = trainer(bar, soft_tie(), SharingMonitor(), enable_progress_bar=True)
    module = Validated()
    made.fit(module, loader(), loader())
    assert not set(bar.get_metrics(made, module)) & NAMES


def test_names_for_the_progress_bar_are_checked():
    with pytest.raises(
        ValueError, match=r"prog_bar: 'distance' is not logged: write one of sharing/penalty, "
    ):
        SharingMonitor(prog_bar=["distance"])
    with pytest.raises(ValueError, match=r"prog_bar: 'sharing/distance_of/0.weight' is not logged"):
        SharingMonitor(per_tie=False, prog_bar=SHOWN)
    assert SharingMonitor(prog_bar="sharing/tied").prog_bar == ("sharing/tied",)
