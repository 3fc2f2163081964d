"""`ShiftConsistency` logs what the metric says of all test images."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from lit_share.callbacks import ShiftConsistency
from lit_share.metrics import shift_consistency

from ._modules import trainer


class Shown(LightningModule):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(20, 3))

    def forward(self, x):
        return self.net(x)

    def test_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize("pixels", [1, 2])
def test_the_mean_over_all_images(pixels):
    """Also where the last batch is short; and without dropout, as in evaluation."""
    images = torch.randn(10, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(images, torch.zeros(10)), 4)
    module = Shown()
    (found,) = trainer(ShiftConsistency(pixels)).test(module, data, verbose=False)
    expected = float(shift_consistency(module.eval(), images, pixels))
    assert 0.0 < expected < 1.0
    assert found == {"test/shift_consistency": pytest.approx(expected, rel=1e-6)}


def test_images_that_do_not_move_are_refused():
    with pytest.raises(ValueError, match="pixels=0 must be at least 1"):
        ShiftConsistency(0)
