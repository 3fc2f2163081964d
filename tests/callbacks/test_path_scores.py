"""Scores of validation data and their standard errors, by the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lit_share.callbacks._path_scores import _size, _split
from lit_share.callbacks._regularize import Regularize
from lit_share.penalties import Path
from lit_share.ties import Ties

from ._modules import assert_same, loader, trainer, weights
from .test_path_walk import Validated, losses_by_hand, saved


class SeveralLoaders(Validated):
    def validation_step(self, batch, batch_idx, dataloader_idx):
        return super().validation_step(batch, batch_idx)


def batch_norm(module):
    """Statistics that a forward pass in training mode would change."""
    module.norm = torch.nn.BatchNorm1d(4, dtype=torch.float64)
    return module


class Normalised(Validated):
    def losses(self, batch):
        x, *targets = batch
        return super().losses((self.norm(x), *targets))


class Unequal(Dataset):
    """Batches whose tensors differ in length, as of a graph's nodes and edges."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y, z = next(iter(loader(1, 4)))
        return (x + index, y, z, torch.zeros(7))


@pytest.fixture
def path(tmp_path):
    return Path(0.1, 0.1, steps=1, epochs=1, dirpath=str(tmp_path))


def walk(module, path, data):
    walking = Regularize("soft_tie", Ties("a.*", "b.*"), path)
    made = trainer(walking, epochs=2, num_sanity_val_steps=0)
    made.fit(module, loader(), data)
    return walking.path


def mean_and_error(losses):
    losses = torch.tensor(losses)
    return float(losses.mean()), float(losses.std()) / len(losses) ** 0.5


def test_scores_of_several_loaders_add_up(path):
    loaders = [loader(12, 2), loader(15, 3)]
    knot = walk(SeveralLoaders(), path, loaders).knots[0]
    module = Validated()
    module.load_state_dict(saved(knot))
    (one, of_one), (two, of_two) = (mean_and_error(losses_by_hand(module, own)) for own in loaders)
    assert knot.score == pytest.approx(one + two)
    assert knot.error == pytest.approx((of_one**2 + of_two**2) ** 0.5)


def test_the_metric_of_one_of_several_loaders(path):
    loaders = [loader(12, 2), loader(15, 3)]
    path = replace(path, monitor="val/loss/dataloader_idx_1")
    knot = walk(SeveralLoaders(), path, loaders).knots[0]
    module = Validated()
    module.load_state_dict(saved(knot))
    expected = mean_and_error(losses_by_hand(module, loaders[1]))
    assert (knot.score, knot.error) == pytest.approx(expected)


def test_pieces_of_a_batch_have_its_number(path):
    numbers = []

    class Indexed(Validated):
        def validation_step(self, batch, batch_idx):
            numbers.append(batch_idx)
            return super().validation_step(batch, batch_idx)

    walk(Indexed(), path, loader(3, 8))
    assert set(numbers) == {0, 1, 2}
    # Of twelve pieces, to ten or more of which batches are split.
    assert any(numbers[i : i + 12] == [0] * 4 + [1] * 4 + [2] * 4 for i in range(len(numbers)))


def test_batches_that_are_skipped_do_not_count(path):
    class Skips(Validated):
        def validation_step(self, batch, batch_idx):
            return None if batch_idx % 2 else super().validation_step(batch, batch_idx)

    data = loader(12, 2)
    knot = walk(Skips(), path, data).knots[0]
    module = Validated()
    module.load_state_dict(saved(knot))
    expected = mean_and_error(losses_by_hand(module, list(data)[::2]))
    assert (knot.score, knot.error) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous")
def test_batches_that_cannot_be_split_stay_whole(path):
    class TakesThree(Validated):
        def validation_step(self, batch, batch_idx):
            return super().validation_step(batch[:3], batch_idx)

    data = DataLoader(Unequal(), batch_size=None)
    knot = walk(TakesThree(), path, data).knots[0]
    module = Validated()
    module.load_state_dict(saved(knot))
    losses = losses_by_hand(module, [batch[:3] for batch in data])
    assert (knot.score, knot.error) == pytest.approx(mean_and_error(losses))


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous")
@pytest.mark.filterwarnings("ignore:the Path's scores have no standard error")
def test_one_batch_that_cannot_be_split_has_no_standard_error(path):
    class TakesThree(Validated):
        def validation_step(self, batch, batch_idx):
            return super().validation_step(batch[:3], batch_idx)

    data = DataLoader(Unequal(), batch_size=None, sampler=[1])
    assert walk(TakesThree(), path, data).knots[0].error is None


def test_a_loader_of_the_path(path):
    own = loader(12, 2)
    knot = walk(Validated(), replace(path, loader=own), loader(12, 5)).knots[0]
    module = Validated()
    module.load_state_dict(saved(knot))
    assert (knot.score, knot.error) == pytest.approx(mean_and_error(losses_by_hand(module, own)))


def test_a_function_in_place_of_the_validation_step(path):
    path = replace(path, loss=lambda module, batch: 2.0 * sum(module.losses(batch)))
    data = loader(12, 2)
    knot = walk(Validated(), path, data).knots[0]
    module = Validated()
    module.load_state_dict(saved(knot))
    score, error = mean_and_error(losses_by_hand(module, data))
    assert (knot.score, knot.error) == pytest.approx((2.0 * score, 2.0 * error))


class Detached(Validated):
    """Logs and returns what `results` makes of its loss, without gradients."""

    def __init__(self, results):
        super().__init__()
        self.results = results

    @torch.no_grad()
    def validation_step(self, batch, batch_idx):
        logged, returned = self.results(sum(self.losses(batch)))
        for name, value in logged.items():
            self.log(name, value)
        return returned

    def on_validation_epoch_end(self):
        """Log nothing."""


@pytest.mark.parametrize(
    ("results", "name"),
    [
        (lambda loss: ({"acc": 1 - loss}, loss), None),
        (lambda loss: ({"acc": 1 - loss}, {"loss": loss}), None),
        (lambda loss: ({"acc": 1 - loss, "val_loss": loss}, None), None),
        (lambda loss: ({"acc": 1 - loss, "val/nll": loss}, loss + 1), "nll"),
        (lambda loss: ({"val/nll": loss}, loss.clone().requires_grad_()), "nll"),
    ],
)
def test_losses_need_no_gradient(path, results, name):
    expected = walk(Validated(), path, loader(12, 2)).knots
    knots = walk(Detached(results), replace(path, loss=name), loader(12, 2)).knots
    for knot, own in zip(knots, expected, strict=True):
        assert (knot.score, knot.error) == pytest.approx((own.score, own.error))


def test_functions_need_no_gradient(path):
    path = replace(path, loss=lambda module, batch: sum(module.losses(batch)).detach())
    expected = walk(Validated(), replace(path, loss=None), loader(12, 2)).knots
    assert walk(Validated(), path, loader(12, 2)).knots[1].score == pytest.approx(expected[1].score)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (lambda loss: ({"acc": loss}, None), r"logs \('acc'\), 0 could be it: return the loss"),
        (lambda loss: ({"a_loss": loss, "b_loss": loss}, None), r"2 could be .*monitor=\.\.\."),
        (lambda loss: ({}, loss.expand(3)), r"logs \(nothing\), 0 could be it"),
    ],
)
def test_losses_without_a_gradient_that_are_not_evident(path, results, message):
    with pytest.raises(ValueError, match=message):
        walk(Detached(results), path, loader(12, 2))


def test_a_loss_of_a_name_that_is_not_logged(path):
    with pytest.raises(ValueError, match=r"Path\(loss='nll'\): validation_step of Detached"):
        walk(Detached(lambda loss: ({}, loss)), replace(path, loss="nll"), loader(12, 2))


def test_functions_that_return_no_tensor(path):
    path = replace(path, loss=lambda module, batch: 0.0)
    with pytest.raises(ValueError, match=r"Path\(loss=function\) has returned no tensor: return"):
        walk(Validated(), path, loader(12, 2))


def test_statistics_and_random_numbers_are_left_alone(path):
    trained = []
    for strength in (path, 1.0):
        torch.manual_seed(0)
        module = batch_norm(Normalised())
        schedule = None if strength is path else lambda _, epoch: path.at(epoch)
        penalty = Regularize("soft_tie", Ties("a.*", "b.*"), strength, schedule)
        made = trainer(penalty, epochs=2, num_sanity_val_steps=0)
        data = DataLoader(loader().dataset, 4, shuffle=True)
        made.fit(module, data, DataLoader(loader(5).dataset, 4, num_workers=0))
        trained.append({**weights(module), **dict(module.named_buffers()), "z": torch.rand(3)})
        if strength is path:
            # The last knot is that of the last step, whichever was chosen.
            module.load_state_dict(saved(penalty.path.knots[-1]))
            trained[0] |= {**weights(module), **dict(module.named_buffers())}
    assert_same(*trained)


def test_pieces():
    batch = {"x": torch.arange(7), "y": [torch.arange(7) * 2, "name"], "scale": torch.tensor(3.0)}
    pieces = _split(batch, 3)
    assert [_size(piece) for piece in pieces] == [3, 2, 2]
    assert torch.equal(torch.cat([piece["x"] for piece in pieces]), batch["x"])
    assert torch.equal(torch.cat([piece["y"][0] for piece in pieces]), batch["y"][0])
    assert all(piece["y"][1] == "name" and float(piece["scale"]) == 3.0 for piece in pieces)
    assert len(_split(batch, 20)) == 7
