"""Two models that learn from two views of their inputs."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from ._foreign import Foreign, mlp, seeded, table


def define(L: Any) -> dict[str, Foreign]:
    """Return the modules, of the LightningModule of a package."""

    class AveragedTeacher(L.LightningModule):
        """Learns from an average of itself, and warms its learning rate up."""

        def __init__(self, lr: float = 0.02) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder = mlp()
            self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
            self.momentum = 0.9

        def training_step(self, batch, batch_idx):
            target = self.teacher(batch[0]).softmax(1)
            loss = nn.functional.cross_entropy(self.encoder(batch[0] + 0.1), target)
            self.log("loss", loss)
            return loss

        def on_train_batch_end(self, outputs, batch, batch_idx):
            with torch.no_grad():
                for own, mean in zip(
                    self.encoder.parameters(), self.teacher.parameters(), strict=True
                ):
                    mean.lerp_(own, 1 - self.momentum)
            done = self.global_step / self.trainer.estimated_stepping_batches
            self.momentum = 1 - 0.1 * (math.cos(math.pi * done) + 1) / 2

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            scale = min(1.0, (self.trainer.global_step + 1) / 4)
            for group in optimizer.param_groups:
                group["lr"] = scale * self.hparams.lr
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            optimizer.zero_grad(set_to_none=True)

        def configure_optimizers(self):
            return torch.optim.SGD(self.encoder.parameters(), lr=self.hparams.lr, momentum=0.9)

    class TrustRatios(L.LightningModule):
        """Scales each tensor's gradient by its norm, and decays over the estimated steps."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.projector = mlp(n_out=4), nn.Linear(4, 4)

        def training_step(self, batch, batch_idx):
            views = [self.projector(self.encoder(batch[0] + shift)) for shift in (0.1, -0.1)]
            left, right = (view - view.mean(0) for view in views)
            correlation = left.T @ right / len(left)
            loss = (correlation - torch.eye(4)).square().sum()
            self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
            return loss

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            def closure():
                loss = optimizer_closure()
                for parameter in self.parameters():
                    norm = parameter.grad.norm()
                    if norm > 0:
                        parameter.grad.mul_(parameter.detach().norm() / norm)
                return loss

            optimizer.step(closure=closure)

        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step()

        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            # Leaves out vectors.
            matrices = [p for p in self.parameters() if p.ndim > 1]
            nn.utils.clip_grad_norm_(matrices, 1.0)

        def configure_optimizers(self):
            groups = [
                {"params": [p for p in self.parameters() if p.ndim > 1]},
                {"params": [p for p in self.parameters() if p.ndim == 1], "weight_decay": 0.0},
            ]
            optimizer = torch.optim.SGD(groups, lr=0.05, weight_decay=1e-3)
            steps = int(self.trainer.estimated_stepping_batches)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 1}]

    return {
        "averaged_teacher": Foreign(lambda seed: seeded(seed, AveragedTeacher), table),
        "trust_ratios": Foreign(lambda seed: seeded(seed, TrustRatios), table),
    }
