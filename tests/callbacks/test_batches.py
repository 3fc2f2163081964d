"""Batches of validation data, beside the loaders' own passes."""

from __future__ import annotations

import random
from itertools import chain

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    TensorDataset,
)

from lit_share.callbacks._batches import Batches

X = torch.arange(10)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(10))


class Items:
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Words(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"text": "abc"[index]}


def drawn(batches, times):
    return [batches.draw() for _ in range(times)]


def numbers(draws):
    return [x.tolist() for ((x,),) in draws]


def test_a_pass_has_each_example_once_and_the_next_another_order():
    found = numbers(drawn(Batches(DataLoader(TensorDataset(X), 4)), 6))
    assert [len(batch) for batch in found] == [4, 4, 2] * 2
    first, second = ([*chain(*found[i : i + 3])] for i in (0, 3))
    assert sorted(first) == sorted(second) == X.tolist()
    assert first != second != X.tolist() != first


def test_all_runs_draw_the_same():
    loader = DataLoader(TensorDataset(X), 4, shuffle=True)
    torch.manual_seed(0)
    one = Batches(DataLoader(TensorDataset(X), 4))
    found = numbers(drawn(one, 6))
    other = Batches(DataLoader(TensorDataset(X), 4))
    other.drawn = [4]
    assert numbers(drawn(other, 2)) == found[4:]
    assert len(numbers(drawn(Batches(loader), 3))) == 3


def test_the_batches_of_a_users_sampler_stay_together():
    pairs = [[0, 1], [2, 3], [4, 5]]
    found = numbers(drawn(Batches(DataLoader(TensorDataset(X), batch_sampler=pairs)), 3))
    assert sorted(found) == pairs

    class Own(BatchSampler):
        pass

    own = Own(range(10), 5, False)
    found = numbers(drawn(Batches(DataLoader(TensorDataset(X), batch_sampler=own)), 2))
    assert sorted(found) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_limits():
    found = numbers(drawn(Batches(DataLoader(TensorDataset(X), 4), [2]), 4))
    assert set(chain(*found)) == set(range(8))
    stream = Batches(DataLoader(Stream(), 4), [2])
    assert [x.tolist() for (x,) in drawn(stream, 3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


@pytest.mark.parametrize("loader", [
    lambda: DataLoader(Stream(), 4),
    lambda: DataLoader(Stream(), 4, num_workers=1, persistent_workers=True),
    lambda: Items([X[:4], X[4:8], X[8:]]),
])  # fmt: skip
def test_batches_in_order_go_on_where_a_run_resumes(loader):
    found = [x.tolist() for (x,) in drawn(Batches(loader()), 5)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3], [4, 5, 6, 7]]
    other = Batches(loader())
    other.drawn = [2]
    assert [x.tolist() for (x,) in drawn(other, 2)] == found[2:4]


@pytest.mark.parametrize("data", [lambda: DataLoader(Stream(), 4), lambda: Items([X[:4], X[4:8]])])
@pytest.mark.parametrize("tried", [1, 2, 4])
def test_batches_in_order_begin_anew_after_a_trial(data, tried):
    found = [x.tolist() for (x,) in drawn(Batches(data()), 5)]
    batches = Batches(data())
    drawn(batches, tried)
    batches.drawn = [0]
    again = [x.tolist() for (x,) in drawn(batches, 5)]
    assert again == found
    assert batches.drawn == [5]


def test_examples_without_a_batch():
    found = drawn(Batches(DataLoader(TensorDataset(X), batch_size=None)), 3)
    assert [x.item() for ((x,),) in found] == [0, 1, 2]


def test_a_collation_is_that_of_the_loader():
    ((batch,),) = [drawn(Batches(DataLoader(Words(), 3)), 1)[0]]
    assert sorted(batch["text"]) == ["a", "b", "c"]


def test_several_loaders():
    loaders = {"a": DataLoader(TensorDataset(X), 4), "b": [DataLoader(Stream(), 2)]}
    first, second = drawn(Batches(loaders), 1)[0]
    assert len(first[0]) == 4
    assert second.tolist() == [0, 1]


def test_loaders_that_run_together():
    loaders = {"a": DataLoader(Stream(), 4), "b": DataLoader(Stream(), 2)}
    combined = CombinedLoader(loaders, "max_size_cycle")
    found = [batch for (batch,) in drawn(Batches(combined), 6)]
    assert [b["a"].tolist() for b in found][:4] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
        [0, 1, 2, 3],
    ]
    assert found[5]["b"].tolist() == [0, 1]


def test_a_pass_of_the_loader_itself_goes_on():
    """Validation may be half way, with workers that stay."""
    loader = DataLoader(Stream(), 4, num_workers=1, persistent_workers=True)
    own = iter(loader)
    assert next(own).tolist() == [0, 1, 2, 3]
    drawn(Batches(loader), 3)
    assert next(own).tolist() == [4, 5, 6, 7]


class Counted(Sampler):
    """With random numbers and a state of its own."""

    def __init__(self):
        self.random, self.passes = random.Random(0), 0

    def __iter__(self):
        self.passes += 1
        return iter(self.random.sample(range(10), 8))

    def __len__(self):
        return 8


@pytest.mark.parametrize("make", [
    lambda rng: DataLoader(TensorDataset(X), 4, sampler=Counted()),
    lambda rng: DataLoader(TensorDataset(X), 4, shuffle=True, generator=rng),
    lambda rng: DataLoader(Stream(), 4, generator=rng),
])  # fmt: skip
def test_samplers_and_generators_are_left_alone(make):
    rng = torch.Generator().manual_seed(3)
    loader = make(rng)
    drawn(Batches(loader), 5)
    for own in Batches(loader).in_order():
        list(own)
    assert torch.equal(rng.get_state(), torch.Generator().manual_seed(3).get_state())
    assert getattr(loader.sampler, "passes", 0) == 0


def test_a_sampler_that_cannot_be_copied():
    sampler = Counted()
    sampler.kept = iter(x for x in X)
    with pytest.warns(UserWarning, match=r"Counted cannot be copied .*validation"):
        drawn(Batches(DataLoader(TensorDataset(X), 4, sampler=sampler)), 1)


@pytest.mark.parametrize("data", [TensorDataset(X), Stream()])
def test_indices_are_those_of_a_pass(data):
    batches, found = Batches(DataLoader(data, 4)), []
    batches.drawn = [1]
    for _ in range(5):
        batches.draw()
        found += batches.indices
    assert found == [1, 2, 0, 1, 2]


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield from range(10)


def test_a_sampler_without_an_end():
    endless = DataLoader(TensorDataset(X), 5, sampler=Endless())
    assert numbers(drawn(Batches(endless), 3)) == [[*range(5)], [*range(5, 10)], [*range(5)]]
    limited = Batches(endless, [2])
    assert sorted(chain(*numbers(drawn(limited, 2)))) == X.tolist()


@pytest.mark.parametrize("loaders", [
    DataLoader(TensorDataset(X), 11, drop_last=True),
    [DataLoader(TensorDataset(X), 4), DataLoader(TensorDataset(X), 11, drop_last=True)],
    Items([]), [],
])  # fmt: skip
def test_loaders_without_a_batch(loaders):
    batches = Batches(loaders, way="Path")
    with pytest.raises(ValueError, match=r"without a batch: .* write Path\(loader=...\)"):
        batches.draw()
    if len(batches.drawn) == 1:
        batches.drawn = [3]
        with pytest.raises(ValueError, match="without a batch"):
            batches.draw()


def test_another_number_of_loaders_begins_anew():
    batches = Batches([Items(X), Items(X)])
    batches.drawn = [3]
    assert batches.drawn == [0, 0]
    assert [x.item() for x in batches.draw()] == [0, 0]


@pytest.mark.parametrize("before", [301, 300, 309, 9, 10, 11])
def test_past_passes_are_not_read_again(before):
    read = []

    class Reads:
        def __iter__(self):
            for x in X.tolist():
                read.append(x)
                yield x

    batches = Batches(Reads())
    batches.drawn = [before]
    assert batches.draw() == batches.indices == [before % 10]
    # A pass, of which the length is learned, and the part of one that is left.
    assert len(read) <= 21
    assert batches.draw() == [(before + 1) % 10]


class Opened(Dataset):
    """With examples that only workers open."""

    x: torch.Tensor | None = None

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.x[index]


def open_in_worker(_):
    """Never called, as batches are drawn without workers."""


@pytest.mark.parametrize(("prepare", "error", "words"), [
    (open_in_worker, ValueError, r"Learned reads .* no worker_init_fn has run, .*\(loader=...\)"),
    (None, TypeError, "not subscriptable"),
])  # fmt: skip
def test_data_that_workers_open(prepare, error, words):
    batches = Batches(DataLoader(Opened(), 4, num_workers=1, worker_init_fn=prepare))
    with pytest.raises(error, match=words):
        batches.draw()
