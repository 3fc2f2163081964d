"""Predictions for images that move, against images moved by hand."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_share.lab.shift import ShiftConsistency, shift_consistency


def moved(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """A window of the image with a margin of zeros all around."""
    height, width = images.shape[-2:]
    padded = np.pad(images, [(0, 0), (0, 0), (height, height), (width, width)])
    return padded[:, :, height - down : 2 * height - down, width - right : 2 * width - right]


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_against_images_moved_by_hand(pixels: int) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(50, 2, 4, 5, generator=rng)
    weight = torch.randn(3, 40, generator=rng)

    def classify(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    predicted = classify(images).argmax(1)
    same = [
        classify(torch.from_numpy(moved(images.numpy(), *move))).argmax(1) == predicted
        for move in ((pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels))
    ]
    expected = torch.stack(same).double().mean()
    assert 0.1 < expected < 0.9
    assert float(shift_consistency(classify, images, pixels)) == pytest.approx(
        float(expected), rel=1e-6
    )


def test_each_direction_counts_a_quarter() -> None:
    """One bright pixel, and classifiers that see a pixel next to it."""
    images = torch.zeros(1, 1, 3, 3)
    images[0, 0, 1, 1] = 1.0
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):

        def classify(x: Tensor, row: int = row, column: int = column) -> Tensor:
            return torch.stack([x[:, 0, row, column], torch.full((len(x),), 0.5)], dim=1)

        assert shift_consistency(classify, images) == 0.75


def test_what_comes_into_view_is_zero_and_not_the_other_side() -> None:
    images = torch.zeros(1, 1, 3, 3)
    images[0, 0, 0] = 1.0  # up, and it is gone

    def classify(x: Tensor) -> Tensor:
        return torch.stack([x.sum((1, 2, 3)), torch.full((len(x),), 0.5)], dim=1)

    assert shift_consistency(classify, images) == 0.75


def test_what_does_not_see_places_is_consistent() -> None:
    images = torch.zeros(20, 1, 8, 8)
    images[:, :, 3:5, 3:5] = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    everywhere = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()
    )
    assert shift_consistency(everywhere, images) == 1.0


def test_nothing_is_changed_and_no_graph_is_made() -> None:
    images = torch.rand(4, 1, 3, 3)
    before, net = images.clone(), nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    value = shift_consistency(net, images)
    assert torch.equal(images, before)
    assert (value.dtype, value.shape, value.requires_grad) == (torch.float32, (), False)


def quiet_trainer(*callbacks):
    return Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=False, enable_progress_bar=False
    )


class Shown(LightningModule):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(
                torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(20, 3)
            )

    def forward(self, x):
        return self.net(x)

    def test_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.usefixtures("quiet", "own_folder")
def test_the_mean_over_all_images(pixels):
    """Also where the last batch is short; and without dropout, as in evaluation."""
    images = torch.randn(10, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(images, torch.zeros(10)), 4)
    module = Shown()
    (found,) = quiet_trainer(ShiftConsistency(pixels)).test(module, data, verbose=False)
    expected = float(shift_consistency(module.eval(), images, pixels))
    assert 0.0 < expected < 1.0
    assert found == {"test/shift_consistency": pytest.approx(expected, rel=1e-6)}


def test_images_that_do_not_move_are_refused():
    with pytest.raises(ValueError, match="pixels=0 must be at least 1"):
        ShiftConsistency(0)
