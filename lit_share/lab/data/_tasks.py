"""Tasks: different labels for the same inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lit_share.lab.data._sources import Arrays, Ints


def classes(arrays: Arrays) -> Ints:
    """Return the labels of the data set.

    Example:
        >>> classes(Arrays(np.zeros((3, 1), np.float32), np.array([4, 5, 9])))
        array([4, 5, 9])
    """
    return arrays.labels


def at_least_five(arrays: Arrays) -> Ints:
    """Return 1 for digits that are at least five, else 0.

    Example:
        >>> at_least_five(Arrays(np.zeros((3, 1), np.float32), np.array([4, 5, 9])))
        array([0, 1, 1])
    """
    return (arrays.labels >= 5).astype(np.int64)


def parity(arrays: Arrays) -> Ints:
    """Return 1 for odd digits, 0 for even digits.

    Example:
        >>> parity(Arrays(np.zeros((3, 1), np.float32), np.array([4, 6, 9])))
        array([0, 0, 1])
    """
    return arrays.labels % 2


def closed_loop(arrays: Arrays) -> Ints:
    """Return 1 for digits with a closed loop (0, 6, 8 and 9), else 0.

    Example:
        >>> closed_loop(Arrays(np.zeros((3, 1), np.float32), np.array([4, 6, 9])))
        array([0, 1, 1])
    """
    return np.isin(arrays.labels, [0, 6, 8, 9]).astype(np.int64)


def direction(arrays: Arrays, seed: int) -> Ints:
    r"""Return the side of a random hyperplane on which each input lies, independent of its class.

    .. math:: y_i = [\langle w, x_i \rangle > \operatorname{median}_j \langle w, x_j \rangle],
        \quad w \sim N(0, I)

    Args:
        arrays: Inputs of any shape; their labels are ignored.
        seed: Seed of w, at least 0.

    Returns:
        1 for one half of the inputs, 0 for the other, shape `(examples,)`.

    Example:
        >>> inputs = np.array([[-1.0], [2.0], [5.0], [-4.0]], np.float32)
        >>> direction(Arrays(inputs, np.zeros(4, np.int64)), seed=0)
        array([0, 1, 1, 0])
    """
    # This is the control of a sharing experiment: unlike shuffled labels it can be learnt, so that
    # sharing can do harm; w is independent of the classes, so that it helps only by chance.
    inputs = arrays.inputs.reshape(len(arrays.inputs), -1)
    sides = inputs @ np.random.default_rng(seed).standard_normal(inputs.shape[1])
    # The median as threshold balances the classes, so that chance is an accuracy of one half.
    return (sides > np.median(sides)).astype(np.int64)


@dataclass(frozen=True)
class Task:
    """A function that labels examples, and the properties that data modules need.

    Args:
        function: Called with the arrays, then with the seed if it takes one; returns labels of
            shape `(examples,)`.
        num_classes: Number of labels; `None` for the data set's number of classes.
        about_digits: Whether the task needs a data set whose classes are digits.
        seeded: Whether the function takes a seed.

    Example:
        >>> TASKS["parity"](Arrays(np.zeros((2, 1), np.float32), np.array([4, 9])))
        array([0, 1])
    """

    function: Callable[..., Ints]
    num_classes: int | None = 2
    about_digits: bool = False
    seeded: bool = False

    def __call__(self, arrays: Arrays, seed: int = 0) -> Ints:
        """Label the examples.

        Args:
            arrays: The examples.
            seed: Seed of random tasks, at least 0.

        Returns:
            Labels of shape `(examples,)`.
        """
        if self.seeded:
            return self.function(arrays, seed)
        return self.function(arrays)


TASKS = {
    "class": Task(classes, num_classes=None),
    "at_least_five": Task(at_least_five, about_digits=True),
    "parity": Task(parity, about_digits=True),
    "closed_loop": Task(closed_loop, about_digits=True),
    "direction": Task(direction, seeded=True),
}
