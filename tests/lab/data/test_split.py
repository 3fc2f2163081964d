import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_share.lab.data._split import split

seeds = st.integers(0, 10_000)


@st.composite
def cuts(draw):
    """Labels with a mixture of classes, and sizes of parts that fit."""
    counts = draw(st.lists(st.integers(1, 60), min_size=1, max_size=6))
    labels = np.random.default_rng(draw(seeds)).permutation(
        np.repeat(np.arange(len(counts)), counts)
    )
    left, sizes = len(labels), {}
    for name in ("test", "val", "a", "b"):
        sizes[name] = draw(st.integers(0, left))
        left -= sizes[name]
    return labels, sizes


@given(cut=cuts(), seed=seeds)
def test_parts_are_disjoint_and_as_large_as_asked_for(cut, seed):
    labels, sizes = cut
    parts = split(labels, sizes, seed)
    assert {name: len(places) for name, places in parts.items()} == sizes
    together = np.concatenate(list(parts.values()))
    assert len(np.unique(together)) == len(together)


@given(cut=cuts(), seed=seeds)
def test_every_part_has_the_mixture_of_classes(cut, seed):
    labels, sizes = cut
    parts = split(labels, sizes, seed)
    counts = np.bincount(labels)
    for places in parts.values():
        # A stretch of [0, 1) holds n_c times its length of class c, give or take 1; and as the
        # sizes of stretches are given in examples, their length is off by up to one example for
        # each class.
        expected = len(places) * counts / len(labels)
        slack = 1 + len(counts) * counts / len(labels)
        assert (
            np.abs(np.bincount(labels[places], minlength=len(counts)) - expected) <= slack
        ).all()


@given(seed=seeds, size=st.integers(1, 10), classes=st.integers(2, 6))
def test_equal_classes_are_split_exactly(seed, size, classes):
    labels = np.tile(np.arange(classes), 20)
    for places in split(labels, {"first": 3, "second": size * classes}, seed).values():
        counts = np.bincount(labels[places], minlength=classes)
        assert np.ptp(counts) <= (len(places) % classes > 0)


@given(cut=cuts(), seed=seeds)
def test_seed_decides(cut, seed):
    for places, again in zip(split(*cut, seed).values(), split(*cut, seed).values(), strict=True):
        np.testing.assert_array_equal(places, again)


def test_seeds_differ():
    labels = np.tile(np.arange(2), 50)
    first, second = (split(labels, {"train": 50}, seed)["train"].tolist() for seed in (0, 1))
    assert sorted(first) != sorted(second)


@given(cut=cuts(), seed=seeds)
def test_smaller_last_part_is_a_piece_of_the_larger_and_the_others_stay(cut, seed):
    labels, sizes = cut
    larger = split(labels, sizes, seed)
    smaller = split(labels, {**sizes, "b": sizes["b"] // 2}, seed)
    np.testing.assert_array_equal(smaller["b"], larger["b"][: sizes["b"] // 2])
    for name in ("test", "val", "a"):
        np.testing.assert_array_equal(smaller[name], larger[name])


def test_too_many_are_refused():
    with pytest.raises(
        ValueError, match=r"the parts \{'a': 3, 'b': 2\} need 5 examples, but there are 4"
    ):
        split(np.zeros(4, np.int64), {"a": 3, "b": 2}, seed=0)
