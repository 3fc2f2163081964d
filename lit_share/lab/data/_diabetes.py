"""Three regressions: the progression of diabetes at three ages."""

from __future__ import annotations

import numpy as np
from sklearn import datasets

from lit_share.lab.data._many_tables import ManyTables, Table


class Diabetes(ManyTables):
    """scikit-learn's diabetes data, for a model of each age: young, middle and old patients.

    442 patients have ten measurements, and how far the disease progressed within a year. Each third
    by age is a task of its own, with 147 or 148 patients. All are standardised.

    Args:
        n_train: Training patients of each age, at least 1.
        n_val: Validation patients of each age, at least 1.
        n_test: Test patients of each age, at least 1.
        batch_size: See `ManyTables`.
        seed: See `ManyTables`.

    Raises:
        ValueError: If a number is out of range, or there are too few patients.

    Example:
        >>> data = Diabetes(n_train=20)
        >>> data.input_shape, data.outputs
        ((10,), {'young': 1, 'middle': 1, 'old': 1})
    """

    def __init__(
        self,
        n_train: int = 20,
        n_val: int = 47,
        n_test: int = 80,
        batch_size: int = 10,
        seed: int = 0,
    ) -> None:
        bunch = datasets.load_diabetes()
        inputs, targets = bunch.data.astype(np.float32), bunch.target.astype(np.float32)[:, None]
        # A stable order, because many patients have the same age, which is the first column.
        thirds = np.array_split(np.argsort(inputs[:, 0], kind="stable"), 3)
        names = ("young", "middle", "old")
        tables = {
            name: Table(inputs[rows], targets[rows])
            for name, rows in zip(names, thirds, strict=True)
        }
        super().__init__(
            tables, n_train=n_train, n_val=n_val, n_test=n_test, batch_size=batch_size, seed=seed
        )
