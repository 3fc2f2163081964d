"""A LightningModule for any loss and any metrics of torchmetrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from lit_share.text import suggest

Batch = tuple[Tensor, Tensor]


def _binary_cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    # Labels are integers, as metrics want them.
    return F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}


class Learner(LightningModule):
    """Train a net on `(inputs, targets)` batches with any loss, and log any metrics.

    For regression, classification and several labels of each example. Logs once per epoch
    `train/loss`, `val/loss` and `test/loss`, and for each metric `val/<name>` and `test/<name>`,
    over all examples.

    Args:
        net: Maps a batch of inputs to predictions, shape `(batch, outputs)`. Those of a net with
            one output lose this dimension if targets have the shape `(batch,)`.
        loss: `"mse"`, `"mae"` and `"huber"` of numbers; `"cross_entropy"` of scores and classes;
            `"binary_cross_entropy"` of scores and labels of 0 and 1; or a module that is called
            with predictions and targets.
        metrics: Metrics of torchmetrics by name, which are updated with predictions and targets.
            Validation and tests use copies.
        lr: Learning rate of AdamW, positive.
        weight_decay: Weight decay of AdamW, at least 0.

    Raises:
        ValueError: If a loss is unknown, a metric has the name of the loss, or, in training, the
            shapes of predictions and targets differ with a loss that compares them one by one.
        TypeError: If a metric is not one of torchmetrics.

    Example:
        >>> from torchmetrics import R2Score
        >>> learner = Learner(nn.Linear(10, 1), loss="mse", metrics={"r2": R2Score()})
        >>> learner(torch.zeros(5, 10)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        net: nn.Module,
        loss: str | nn.Module = "mse",
        metrics: Mapping[str, Metric] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is not known{suggest(loss, LOSSES)}")
        for name, metric in (metrics or {}).items():
            if not isinstance(metric, Metric):
                raise TypeError(f"metrics.{name}={metric!r} is no metric of torchmetrics")
            if name == "loss" or "." in name:
                raise ValueError(f"metrics.{name}: write another name, without dots, than loss")
        # The others are modules, which would be pickled a second time.
        self.save_hyperparameters("lr", "weight_decay")
        self.net = net
        self.loss = loss
        self.lr = lr
        self.weight_decay = weight_decay
        self.metrics = nn.ModuleDict()
        for stage in ("val", "test"):
            own = {name: copy.deepcopy(metric) for name, metric in (metrics or {}).items()}
            self.metrics[stage] = nn.ModuleDict(own)

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions, shape `(batch, outputs)`."""
        predictions: Tensor = self.net(x)
        return predictions

    def training_step(self, batch: Batch) -> Tensor:
        """Compute the loss of one training batch."""
        x, y = batch
        loss = self._loss(self._predict(x, y), y)
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x)
        )
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Log loss and metrics of one validation batch."""
        self._measure("val", batch)

    def test_step(self, batch: Batch) -> None:
        """Log loss and metrics of one test batch."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: Batch) -> None:
        x, y = batch
        predictions = self._predict(x, y)
        loss = self._loss(predictions, y)
        self.log(f"{stage}/loss", loss, sync_dist=True, batch_size=len(x))
        metrics = self.metrics[stage]
        assert isinstance(metrics, nn.ModuleDict)
        for name, metric in metrics.items():
            assert isinstance(metric, Metric)
            # Logged as an object, a metric is that of all examples: a mean over batches would be
            # no R².
            metric.update(predictions, y)
            self.log(f"{stage}/{name}", metric, batch_size=len(x))

    def _predict(self, x: Tensor, y: Tensor) -> Tensor:
        predictions: Tensor = self(x)
        if predictions.ndim == y.ndim + 1 and predictions.shape[-1] == 1:
            return predictions.squeeze(-1)
        return predictions

    def _loss(self, predictions: Tensor, y: Tensor) -> Tensor:
        if isinstance(self.loss, nn.Module):
            loss: Tensor = self.loss(predictions, y)
            return loss
        # Torch would broadcast (batch,) against (batch, 1) to all pairs of examples.
        if self.loss != "cross_entropy" and predictions.shape != y.shape:
            raise ValueError(
                f"loss={self.loss}: predictions have the shape {tuple(predictions.shape)}, but "
                f"targets {tuple(y.shape)}: make the outputs of the net as many as targets"
            )
        return LOSSES[self.loss](predictions, y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build AdamW."""
        return torch.optim.AdamW(self.parameters(), self.lr, weight_decay=self.weight_decay)
