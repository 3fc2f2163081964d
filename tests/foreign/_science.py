"""A molecular network, and a variational model of cells."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ._foreign import Foreign, mlp, seeded, table


class Molecules:
    """A batch of molecules, with atoms in one table; no tensor, list or dict."""

    def __init__(self, atoms: torch.Tensor, molecule: torch.Tensor, energy: torch.Tensor) -> None:
        self.atoms, self.molecule, self.energy = atoms, molecule, energy

    @property
    def n_molecules(self) -> int:
        return len(self.energy)

    def to(self, device: torch.device, **options: Any) -> Molecules:
        tensors = (self.atoms, self.molecule, self.energy)
        return Molecules(*(tensor.to(device) for tensor in tensors))


def collate(atoms: list[torch.Tensor]) -> Molecules:
    index = torch.tensor([i for i, each in enumerate(atoms) for _ in each])
    return Molecules(torch.cat(atoms), index, torch.stack([a.square().sum() for a in atoms]))


def molecules(seed: int, n: int = 10) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    atoms = [torch.randn(2 + i % 3, 4, generator=generator) for i in range(n)]
    return DataLoader(atoms, batch_size=4, collate_fn=collate)


def define(L: Any) -> dict[str, Foreign]:
    """Return the modules, of the LightningModule of a package."""

    class OwnBatch(L.LightningModule):
        """Fits energies and their gradients, the forces, on batches of its own class."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.readout = mlp(), nn.Linear(3, 1)

        def energy(self, batch):
            per_atom = self.readout(self.encoder(batch.atoms).tanh())[:, 0]
            total = torch.zeros(batch.n_molecules)
            return total.index_add(0, batch.molecule, per_atom)

        def training_step(self, batch, batch_idx):
            batch.atoms.requires_grad_()
            energy = self.energy(batch)
            (forces,) = torch.autograd.grad(energy.sum(), batch.atoms, create_graph=True)
            loss = (energy - batch.energy).square().mean() + (forces - 1).square().mean()
            self.log("train/loss", loss, on_epoch=True, batch_size=batch.n_molecules)
            return loss

        def validation_step(self, batch, batch_idx):
            error = (self.energy(batch) - batch.energy).abs().mean()
            self.log("val/mae", error, batch_size=batch.n_molecules)

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch.to(device)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2, amsgrad=True)

    class NoiseInValidation(L.LightningModule):
        """Samples in validation, too, and weighs a term by the epoch."""

        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder, self.decoder = mlp(n_out=4), mlp(n_in=2, n_out=4)
            self.norm = nn.BatchNorm1d(4)
            self.random = torch.Generator().manual_seed(seed)

        def elbo(self, batch):
            mean, log_std = self.encoder(self.norm(batch[0])).chunk(2, 1)
            latent = mean
            if self.encoder.training:
                latent = mean + log_std.exp() * torch.randn(mean.shape, generator=self.random)
            kl = 0.5 * (mean.square() + (2 * log_std).exp() - 2 * log_std - 1).sum(1).mean()
            weight = min(1.0, (self.current_epoch + 1) / self.trainer.max_epochs)
            return nn.functional.mse_loss(self.decoder(latent), batch[0]) + weight * kl

        def training_step(self, batch, batch_idx):
            loss = self.elbo(batch)
            self.log("elbo_train", loss, on_epoch=True, on_step=False)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("elbo_validation", self.elbo(batch))

        def on_validation_model_eval(self):
            super().on_validation_model_eval()
            self.encoder.train()

        def on_validation_model_train(self):
            super().on_validation_model_train()

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "elbo_validation"},
            }

    return {
        "own_batch": Foreign(
            lambda seed: seeded(seed, OwnBatch), molecules, partial(molecules, n=5)
        ),
        "noise_in_validation": Foreign(
            lambda seed: seeded(seed, lambda: NoiseInValidation(seed)),
            table,
            partial(table, samples=7),
        ),
    }
