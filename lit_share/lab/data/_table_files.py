"""Your own tables, from CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_share.lab.data._many_tables import Kind, ManyTables, Table
from lit_share.text import suggest


class TableFiles(ManyTables):
    """A CSV file of numbers for each of several models: data that need no code.

    The first line of a file names its columns, and all files have the same inputs. See
    `ManyTables` for the split and the scales.

    Args:
        files: The path of each model's file, by the model's name.
        targets: The columns to predict, of all models or by model; the others are inputs.
        ignore: Columns that are neither, such as identifiers.
        kind: See `ManyTables`.
        n_train: See `ManyTables`.
        n_val: See `ManyTables`.
        n_test: See `ManyTables`.
        batch_size: See `ManyTables`.
        seed: See `ManyTables`.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a column is not in a file, columns of inputs differ, or a value is no number;
            also as `ManyTables`.

    Example:
        >>> data = TableFiles(
        ...     {"old": "old.csv", "new": "new.csv"}, ["price"], n_val=50, n_test=100
        ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        files: Mapping[str, str],
        targets: Sequence[str] | Mapping[str, Sequence[str]],
        ignore: Sequence[str] = (),
        *,
        kind: Kind = "numbers",
        n_train: int | Mapping[str, int] | None = None,
        n_val: int,
        n_test: int,
        batch_size: int = 50,
        seed: int = 0,
    ) -> None:
        if not files:
            raise ValueError("files is empty: name a file for each model, as in files={a: a.csv}")
        tables: dict[str, Table] = {}
        known: dict[str, list[str]] = {}
        for name, path in files.items():
            columns, values = _read(path)
            own = targets
            if isinstance(own, Mapping):
                if name not in own:
                    raise ValueError(f"targets has no {name!r}{suggest(name, own)}")
                own = own[name]
            for column in (*own, *ignore):
                if column not in columns:
                    raise ValueError(f"{path} has no column {column!r}{suggest(column, columns)}")
            known[name] = [column for column in columns if column not in {*own, *ignore}]
            first = next(iter(known))
            if known[name] != known[first]:
                different = sorted({*known[name]} ^ {*known[first]}) or ["their order"]
                raise ValueError(
                    f"inputs of {name!r} and {first!r} differ ({', '.join(different)}): name "
                    "columns that are no inputs in ignore=[...]"
                )
            inputs = values[:, [columns.index(column) for column in known[name]]]
            wanted = values[:, [columns.index(column) for column in own]]
            tables[name] = Table(inputs, wanted, tuple(own))
        super().__init__(
            tables,
            kind=kind,
            n_train=n_train,
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
        )


def _read(path: str) -> tuple[list[str], NDArray[np.float32]]:
    """Return the names of a file's columns, and its numbers."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}, looked up from {Path.cwd()}")
    with Path(path).open(encoding="utf-8") as file:
        columns = [name.strip().strip('"') for name in file.readline().split(",")]
        try:
            values = np.loadtxt(file, np.float32, delimiter=",", ndmin=2)
        except ValueError as error:
            raise ValueError(
                f"{path}: {error}: write numbers only, below one line of names"
            ) from None
    if values.shape[1] != len(columns) or not np.isfinite(values).all():
        raise ValueError(f"{path}: each line needs {len(columns)} finite numbers")
    return columns, values
