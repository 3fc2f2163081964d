"""What both data modules must do."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_share.lab.data import PairedDomains, RelatedOutputs
from lit_share.lab.data._sources import SOURCES

MODULES = {
    "paired domains": lambda **kwargs: PairedDomains("digits", "same", **kwargs),
    "related outputs": lambda **kwargs: RelatedOutputs("digits", "class", "closed_loop", **kwargs),
}
SIZES = {"n_a": 60, "n_b": 30, "n_val": 40, "n_test": 50}


@pytest.fixture(params=MODULES)
def make(request):
    return MODULES[request.param]


def examples(loader):
    """A loader's images as hashable values; no two images of the data set are equal."""
    return [image.numpy().tobytes() for x, _ in loader for image in x]


def loaders(data):
    return {
        f"{part} {name}": loader
        for part in ("train", "val", "test")
        for name, loader in getattr(data, f"{part}_dataloader")().items()
    }


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_a=st.integers(1, 400),
    n_b=st.integers(1, 400),
    n_val=st.integers(1, 400),
    n_test=st.integers(1, 400),
)
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_parts_have_their_sizes_and_share_no_example(make, seed, n_a, n_b, n_val, n_test):
    data = make(seed=seed, n_a=n_a, n_b=n_b, n_val=n_val, n_test=n_test)
    shown = {key: examples(loader) for key, loader in loaders(data).items()}
    assert {key: len(images) for key, images in shown.items()} == {
        "train a": n_a,
        "train b": n_b,
        "val a": n_val,
        "val b": n_val,
        "test a": n_test,
        "test b": n_test,
    }
    # Both views show the images as they are, so the judging ground can be compared.
    assert shown["val a"] == shown["val b"]
    assert shown["test a"] == shown["test b"]
    parts = [shown["train a"], shown["train b"], shown["val a"], shown["test a"]]
    together = [image for part in parts for image in part]
    assert len(together) == len(set(together))


def test_batches_are_what_a_classifier_takes(make):
    data = make(**SIZES, batch_size=25)
    for key, loader in loaders(data).items():
        sizes = []
        for x, y in loader:
            assert x.dtype == torch.float32
            assert y.dtype == torch.int64
            assert x.shape[1:] == data.input_shape
            assert y.min() >= 0
            assert y.max() < data.num_classes[key[-1]]
            sizes.append(len(x))
        assert all(size == 25 for size in sizes[:-1]), key


def test_seed_decides(make):
    def everything(seed):
        return {key: examples(loader) for key, loader in loaders(make(**SIZES, seed=seed)).items()}

    first, again, other = everything(0), everything(0), everything(1)
    assert first == again
    for key, images in first.items():
        assert set(images) != set(other[key]), key


def test_order_of_training_follows_the_seed_and_differs_between_the_two(make):
    sizes = SIZES | {"n_a": 40, "n_b": 40}
    orders = [
        tuple(loader.sampler)
        for seed in (0, 1)
        for loader in make(**sizes, seed=seed).train_dataloader().values()
    ]
    assert len(set(orders)) == 4


def test_only_training_is_shuffled(make):
    data = make(**SIZES)
    for key, loader in loaders(data).items():
        assert (examples(loader) == examples(loader)) is not key.startswith("train"), key


def test_two_fits_with_one_module_see_the_same_orders(make):
    data = make(**SIZES)
    for name in ("a", "b"):
        first, second = data.train_dataloader()[name], data.train_dataloader()[name]
        assert [examples(first), examples(first)] == [examples(second), examples(second)]


def test_size_of_b_changes_nothing_else(make):
    few, many = make(**SIZES | {"n_b": 10}), make(**SIZES | {"n_b": 30})
    shown_by_few = {key: set(examples(loader)) for key, loader in loaders(few).items()}
    shown_by_many = {key: set(examples(loader)) for key, loader in loaders(many).items()}
    assert shown_by_few.pop("train b") < shown_by_many.pop("train b")
    assert shown_by_few == shown_by_many


def test_nothing_is_loaded_before_it_is_needed_and_nothing_twice(make, monkeypatch):
    loads = []
    source = SOURCES["digits"]

    def load():
        loads.append(1)
        return source.load()

    monkeypatch.setitem(SOURCES, "digits", replace(source, load=load))
    data = make(**SIZES)
    assert data.input_shape == (1, 8, 8)
    assert loads == []
    data.train_dataloader()
    data.setup("fit")
    data.setup("test")
    data.test_dataloader()
    assert loads == [1]


def test_names_are_the_users(make):
    data = make(**SIZES, names=["clean", "odd"])
    assert list(data.num_classes) == ["clean", "odd"]
    for part in ("train", "val", "test"):
        assert list(getattr(data, f"{part}_dataloader")()) == ["clean", "odd"]


@pytest.mark.parametrize("names", [("a", "a"), ("a",), ("a", "b", "c")])
def test_names_that_are_not_two_different_ones_are_refused(make, names):
    with pytest.raises(ValueError, match=r'must be two different ones, as in names=\("a", "b"\)'):
        make(names=names)


@pytest.mark.parametrize("argument", ["n_a", "n_b", "n_val", "n_test", "batch_size"])
def test_counts_below_1_are_refused(make, argument):
    with pytest.raises(ValueError, match=f"{argument}=0 must be at least 1"):
        make(**{argument: 0})


def test_negative_seed_is_refused(make):
    with pytest.raises(ValueError, match="seed=-1 must be at least 0"):
        make(seed=-1)


def test_more_examples_than_there_are_is_refused(make):
    with pytest.raises(
        ValueError,
        match=r'n_a \+ n_b \+ n_val \+ n_test = 900 \+ 50 \+ 300 \+ 600 = 1850, but "digits" has '
        r"1797",
    ):
        make(n_a=900)


def test_every_example_can_be_used(make):
    data = make(n_a=800, n_b=97, n_val=300, n_test=600)
    assert (
        sum(len(examples(loaders(data)[key])) for key in ("train a", "train b", "val a", "test a"))
        == 1797
    )


def test_unknown_data_set_is_refused():
    for module in (PairedDomains, RelatedOutputs):
        with pytest.raises(
            ValueError, match='dataset="cifar" is not known: write one of "digits", "mnist"'
        ):
            module("cifar")
