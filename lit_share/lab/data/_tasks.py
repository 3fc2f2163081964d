"""Tasks: different questions about the same inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lit_share.lab.data._arrays import Arrays, Ints


def classes(arrays: Arrays) -> Ints:
    """Ask for the class that the data set gives.

    Args:
        arrays: Any data set.

    Returns:
        Its labels.

    Example:
        >>> classes(Arrays(np.zeros((3, 1), np.float32), np.array([4, 5, 9])))
        array([4, 5, 9])
    """
    return arrays.labels


def at_least_five(arrays: Arrays) -> Ints:
    """Ask whether a digit is at least five.

    Args:
        arrays: Labelled with digits, 0 to 9.

    Returns:
        1 for at least five, else 0.

    Example:
        >>> at_least_five(Arrays(np.zeros((3, 1), np.float32), np.array([4, 5, 9])))
        array([0, 1, 1])
    """
    return (arrays.labels >= 5).astype(np.int64)


def parity(arrays: Arrays) -> Ints:
    """Ask whether a digit is odd.

    Args:
        arrays: Labelled with digits, 0 to 9.

    Returns:
        1 for odd, 0 for even.

    Example:
        >>> parity(Arrays(np.zeros((3, 1), np.float32), np.array([4, 6, 9])))
        array([0, 0, 1])
    """
    return arrays.labels % 2


def closed_loop(arrays: Arrays) -> Ints:
    """Ask whether the stroke of a digit closes a loop, as in 0, 6, 8 and 9.

    Args:
        arrays: Labelled with digits, 0 to 9.

    Returns:
        1 with a loop, 0 without.

    Example:
        >>> closed_loop(Arrays(np.zeros((3, 1), np.float32), np.array([4, 6, 9])))
        array([0, 1, 1])
    """
    return np.isin(arrays.labels, [0, 6, 8, 9]).astype(np.int64)


def direction(arrays: Arrays, seed: int) -> Ints:
    r"""Ask on which side of a random hyperplane an input lies: a question without a relation to the class.

    .. math:: y_i = [\langle w, x_i \rangle > \operatorname{median}_j \langle w, x_j \rangle],
        \quad w \sim N(0, I)

    This is the control of a sharing experiment. Unlike shuffled labels it can be learnt, so sharing has
    something to lose; and as w is drawn without a look at the classes, a gain would be an accident.

    Args:
        arrays: Inputs of any shape; their labels play no part.
        seed: Draws w, at least 0.

    Returns:
        1 for one half of the inputs, 0 for the other.

    Example:
        >>> inputs = np.array([[-1.0], [2.0], [5.0], [-4.0]], np.float32)
        >>> direction(Arrays(inputs, np.zeros(4, np.int64)), seed=0)
        array([0, 1, 1, 0])
    """
    inputs = arrays.inputs.reshape(len(arrays.inputs), -1)
    sides = inputs @ np.random.default_rng(seed).standard_normal(inputs.shape[1])
    return (sides > np.median(sides)).astype(np.int64)


@dataclass(frozen=True)
class Task:
    """A question about each example, and what it needs.

    Args:
        function: Called with the arrays, then with the seed if it takes one; returns a label for each example.
        num_classes: Number of answers; `None` for as many as the data set has classes.
        about_digits: Whether it makes sense only where a class is the digit that is shown.
        seeded: Whether it takes a seed.

    Example:
        >>> TASKS["parity"](Arrays(np.zeros((2, 1), np.float32), np.array([4, 9])))
        array([0, 1])
    """

    function: Callable[..., Ints]
    num_classes: int | None = 2
    about_digits: bool = False
    seeded: bool = False

    def __call__(self, arrays: Arrays, seed: int = 0) -> Ints:
        """Answer the question.

        Args:
            arrays: The examples.
            seed: For what is random, at least 0.

        Returns:
            The answers, shape `(examples,)`.
        """
        return self.function(arrays, seed) if self.seeded else self.function(arrays)


TASKS = {
    "class": Task(classes, num_classes=None),
    "at_least_five": Task(at_least_five, about_digits=True),
    "parity": Task(parity, about_digits=True),
    "closed_loop": Task(closed_loop, about_digits=True),
    "direction": Task(direction, seeded=True),
}
