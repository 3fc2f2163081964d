"""A module for any loss and any metrics."""

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import f1_score, mean_squared_error, r2_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, R2Score
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy

from lit_share.lab.models import Learner

# Steps are called without a trainer, and loaders have no workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:You are trying to `self.log:UserWarning",
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec.*:FutureWarning",
)


def measured(learner: Learner, x: torch.Tensor, y: torch.Tensor, stage: str) -> dict[str, float]:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    # Batches of other sizes: a mean over them would be wrong.
    loader = DataLoader(TensorDataset(x, y), batch_size=7, num_workers=0)
    (found,) = getattr(trainer, stage)(learner, loader, verbose=False)
    return dict(found)


@pytest.mark.parametrize(("stage", "prefix"), [("validate", "val"), ("test", "test")])
def test_metrics_are_those_of_sklearn_over_all_examples(stage: str, prefix: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(17, 3), torch.randn(17, 2)
    metrics = {"mse": MeanSquaredError(), "r2": R2Score()}
    learner = Learner(nn.Linear(3, 2), metrics=metrics)
    found = measured(learner, x, y, stage)
    predicted = learner(x).detach().numpy()
    assert found[f"{prefix}/mse"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-5)
    assert found[f"{prefix}/r2"] == pytest.approx(r2_score(y, predicted), rel=1e-4)
    assert found[f"{prefix}/loss"] == pytest.approx(found[f"{prefix}/mse"], rel=1e-5)


def test_several_labels_of_each_example() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randint(0, 2, (20, 4))
    learner = Learner(nn.Linear(3, 4), "binary_cross_entropy", {"f1": BinaryF1Score()})
    found = measured(learner, x, y, "test")
    predicted = (learner(x) > 0).long()
    assert found["test/f1"] == pytest.approx(f1_score(y.flatten(), predicted.flatten()), rel=1e-5)


def test_classes_and_own_losses() -> None:
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    classes = Learner(nn.Linear(3, 3), "cross_entropy", {"acc": MulticlassAccuracy(3)})
    assert classes.training_step((x, y)) > 0
    own = Learner(nn.Linear(3, 1), nn.SmoothL1Loss())
    assert own.training_step((x, torch.zeros(6))) >= 0
    # A copy per stage and child: their states must not mix.
    shared = R2Score()
    one, two = (Learner(nn.Linear(3, 1), metrics={"r2": shared}) for _ in range(2))
    modules = [one.metrics["val"]["r2"], one.metrics["test"]["r2"], two.metrics["val"]["r2"]]
    assert len({id(module) for module in (*modules, shared)}) == 4


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_cross_entropy"])
def test_nothing_is_broadcast(loss: str) -> None:
    learner = Learner(nn.Linear(3, 2), loss)
    with pytest.raises(ValueError, match=r"the shape \(5, 2\), but targets \(5,\)"):
        learner.training_step((torch.zeros(5, 3), torch.zeros(5)))
    single = Learner(nn.Linear(3, 1), loss)
    assert single.training_step((torch.zeros(5, 3), torch.zeros(5))).ndim == 0


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="loss='msee' is not known: did you mean 'mse'"):
        Learner(nn.Linear(1, 1), "msee")
    with pytest.raises(TypeError, match=r"metrics\.r2='r2' is no metric"):
        Learner(nn.Linear(1, 1), metrics={"r2": "r2"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"metrics.loss: write another name"):
        Learner(nn.Linear(1, 1), metrics={"loss": R2Score()})
