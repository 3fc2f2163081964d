"""A LightningModule for classification that knows nothing of sharing."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Train a net on `(inputs, labels)` batches with cross entropy.

    Logs once per epoch: `train/loss` (the objective), `val/loss`, `val/acc`, `test/loss` and
    `test/acc` (losses without label smoothing, so that runs with and without it can be compared).

    Args:
        net: Maps a batch of inputs to class scores, shape `(batch, num_classes)`.
        num_classes: Number of classes, at least 1.
        lr: Learning rate, finite and at least 0.
        optimizer: `"adam"`, `"adamw"` or `"sgd"`.
        momentum: Momentum of `"sgd"`, in `[0, 1)`; ignored by the others.
        weight_decay: Weight decay of the optimizer, at least 0.
        label_smoothing: Fraction of each training target that is spread evenly over the classes,
            in `[0, 1]`.

    Raises:
        ValueError: If `optimizer` is unknown or `lr` is out of range.

    Example:
        >>> from lit_share.lab.models import MLP
        >>> classifier = Classifier(MLP((1, 8, 8), 10), num_classes=10, optimizer="sgd", lr=0.1)
        >>> classifier(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        >>> sorted(classifier.hparams)
        ['label_smoothing', 'lr', 'momentum', 'num_classes', 'optimizer', 'weight_decay']
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        lr: float = 1e-3,
        optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        # `Literal` is not checked at run time, and configs pass any text.
        if optimizer not in ("adam", "adamw", "sgd"):
            raise ValueError(
                f'optimizer={optimizer!r} is not known: write "adam", "adamw" or "sgd"'
            )
        # PyTorch accepts an infinite rate, and refuses others only when training starts.
        if not (math.isfinite(lr) and lr >= 0.0):
            raise ValueError(f"lr={lr} must be a finite number of at least 0")
        # The net is saved in the state dict; as a hyperparameter it would be pickled a second time.
        self.save_hyperparameters(ignore=["net"])
        self.net = net
        self.lr = lr
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, x: Tensor) -> Tensor:
        """Return unnormalised class scores, shape `(batch, num_classes)`."""
        scores: Tensor = self.net(x)
        return scores

    def training_step(self, batch: Batch) -> Tensor:
        """Compute the loss of one training batch."""
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=self.label_smoothing)
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x)
        )
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Log loss and accuracy of one validation batch."""
        self._measure("val", self.val_acc, batch)

    def test_step(self, batch: Batch) -> None:
        """Log loss and accuracy of one test batch."""
        self._measure("test", self.test_acc, batch)

    def _measure(self, stage: str, accuracy: MulticlassAccuracy, batch: Batch) -> None:
        x, y = batch
        scores = self(x)
        # Logged as a metric object, the accuracy is that of all examples; a mean of batches would
        # overweight those of a smaller last batch.
        accuracy.update(scores, y)
        self.log(f"{stage}/loss", F.cross_entropy(scores, y), sync_dist=True, batch_size=len(x))
        self.log(f"{stage}/acc", accuracy, batch_size=len(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer."""
        weights, decay = self.parameters(), self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, self.lr, self.momentum, weight_decay=decay)
        if self.optimizer == "adam":
            return torch.optim.Adam(weights, self.lr, weight_decay=decay)
        return torch.optim.AdamW(weights, self.lr, weight_decay=decay)
