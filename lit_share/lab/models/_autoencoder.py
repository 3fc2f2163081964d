"""An autoencoder whose decoder mirrors the encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn

if TYPE_CHECKING:
    from lit_share.lab.data import PlacedImages

Batch = tuple[Tensor, Tensor]


class Autoencoder(LightningModule):
    r"""Compress inputs to a code of few features, and reconstruct them.

    Each decoder layer has the name of the encoder layer with the transposed shape, so that
    `Ties("encoder.*.weight", "decoder.*.weight.T")` ties each weight to the transpose of its
    counterpart: with hard ties and one linear layer, this is principal component analysis.

    .. math:: \hat x = D_0(\rho(D_1(\ldots \rho(E_1(\rho(E_0(x)))))))

    with linear layers :math:`E_i` and :math:`D_i`, and :math:`\rho` the ReLU between them; the
    code and the reconstruction have no activation.

    Trains on `(inputs, labels)` batches and ignores the labels. Logs the mean squared error per
    element once per epoch, as `train/mse`, `val/mse` and `test/mse`.

    Args:
        input_shape: Shape of one input, which is flattened.
        widths: Output features of each encoder layer, at least one layer; the last is the length
            of the code.
        lr: Learning rate of Adam, positive.

    Raises:
        ValueError: If `widths` is empty.

    Example:
        >>> autoencoder = Autoencoder((1, 8, 8), widths=(32, 16))
        >>> autoencoder(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
        >>> for name, weight in autoencoder.named_parameters():
        ...     if name.endswith("weight"):
        ...         print(name, tuple(weight.shape))
        encoder.linear0.weight (32, 64)
        encoder.linear1.weight (16, 32)
        decoder.linear1.weight (32, 16)
        decoder.linear0.weight (64, 32)
    """

    def __init__(
        self, input_shape: Sequence[int], widths: Sequence[int] = (32, 16), lr: float = 1e-3
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError(
                "widths is empty: name the outputs of at least one layer, as in widths=(16,)"
            )
        self.save_hyperparameters()
        self.lr = lr
        sizes = [prod(input_shape), *widths]
        encoder: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        decoder: OrderedDict[str, nn.Module] = OrderedDict()
        last = len(widths) - 1
        for i in range(last + 1):
            encoder[f"linear{i}"] = nn.Linear(sizes[i], sizes[i + 1])
            # A ReLU would restrict the code to positive numbers.
            if i < last:
                encoder[f"relu{i}"] = nn.ReLU()
        for i in reversed(range(last + 1)):
            decoder[f"linear{i}"] = nn.Linear(sizes[i + 1], sizes[i])
            if i > 0:
                decoder[f"relu{i}"] = nn.ReLU()
        decoder["unflatten"] = nn.Unflatten(1, tuple(input_shape))
        self.encoder = nn.Sequential(encoder)
        self.decoder = nn.Sequential(decoder)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct a batch of inputs, shape `(batch, *input_shape)`."""
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction

    def training_step(self, batch: Batch) -> Tensor:
        """Compute the loss of one training batch."""
        return self._measure("train", batch)

    def validation_step(self, batch: Batch) -> None:
        """Log the error of one validation batch."""
        self._measure("val", batch)

    def test_step(self, batch: Batch) -> None:
        """Log the error of one test batch."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: Batch) -> Tensor:
        x, _ = batch
        loss = F.mse_loss(self(x), x)
        self.log(
            f"{stage}/mse", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x)
        )
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build Adam."""
        return torch.optim.Adam(self.parameters(), self.lr)


def autoencoder(
    data: PlacedImages, widths: Sequence[int] = (32, 16), lr: float = 1e-3
) -> Autoencoder:
    """Build an `Autoencoder` for the input shape of a data module.

    Args:
        data: Has an `input_shape`.
        widths: See `Autoencoder`.
        lr: Learning rate of Adam, positive.
    """
    return Autoencoder(data.input_shape, widths, lr)
