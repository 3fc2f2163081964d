"""Tables of numbers: one for each model, with targets to predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lit_share.lab.data._batches import MemoryDataset, batches, shuffled_by_name
from lit_share.lab.data._sources import standardised

# What targets are: numbers to estimate, one class of several, or labels of 0 and 1.
Kind: TypeAlias = Literal["numbers", "classes", "labels"]
_PARTS = ("train", "val", "test")


class Table(NamedTuple):
    """Examples of one model.

    Args:
        inputs: Shape `(examples, columns)`.
        targets: Shape `(examples, targets)`; a single column if they are classes.
        target_names: Names of the targets. Those of equal names have one scale in all models.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.float32]
    target_names: tuple[str, ...] = ()


class ManyTables(LightningDataModule):
    """A table for each of several models, whose columns mean the same.

    The split is random for each table. Inputs, and targets that are numbers, are standardised by
    the training examples of all tables: one scale for all, so that tied weights mean the same in
    every model. A squared error of 1 is then that of the mean. `train_dataloader()`,
    `val_dataloader()` and `test_dataloader()` return a dict with a loader of `(inputs, targets)`
    batches for each name.

    Args:
        tables: The examples by name, at least one table.
        kind: What targets are: `"numbers"`, as `float32` of the shape `(examples, targets)`;
            `"classes"` from 0, as `int64` of the shape `(examples,)`; `"labels"` of 0 and 1, as
            `int64` of the shape `(examples, targets)`.
        n_train: Training examples of each model, or of each name; `None` for all that are left.
        n_val: Validation examples of each model, at least 1.
        n_test: Test examples of each model, at least 1.
        batch_size: Examples per batch, at least 1; the last batch of a pass may be smaller.
        seed: Seed of the splits and the training order, at least 0.

    Attributes:
        input_shape: `(columns,)`.
        outputs: Number of outputs that a model needs, for each name.

    Raises:
        ValueError: If a number is out of range, a table has too few examples, other columns than
            the first, or targets that are not of the kind.

    Example:
        >>> table = Table(np.random.rand(9, 4).astype("f4"), np.random.rand(9, 2).astype("f4"))
        >>> data = ManyTables({"a": table, "b": table}, n_val=2, n_test=3)
        >>> data.input_shape, data.outputs
        ((4,), {'a': 2, 'b': 2})
        >>> x, y = next(iter(data.train_dataloader()["b"]))
        >>> x.shape, y.shape
        (torch.Size([4, 4]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        tables: Mapping[str, Table],
        *,
        kind: Kind = "numbers",
        n_train: int | Mapping[str, int] | None = None,
        n_val: int,
        n_test: int,
        batch_size: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in ("numbers", "classes", "labels"):
            raise ValueError(f'kind="{kind}" is not known: write numbers, classes or labels')
        for key, number, least in (
            ("n_val", n_val, 1),
            ("n_test", n_test, 1),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            if number < least:
                raise ValueError(f"{key}={number} must be at least {least}")
        if isinstance(n_train, Mapping) and n_train.keys() != tables.keys():
            raise ValueError(f"n_train names {', '.join(n_train)}: name {', '.join(tables)}")
        first = next(iter(tables))
        self.input_shape = tables[first].inputs.shape[1:]
        self.outputs: dict[str, int] = {}
        self.batch_size = batch_size
        self._seed = seed
        self._rows: dict[str, dict[str, NDArray[np.intp]]] = {}
        for number, (name, table) in enumerate(tables.items()):
            if table.inputs.shape[1:] != self.input_shape:
                raise ValueError(
                    f"table {name!r} has {table.inputs.shape[1]} columns of inputs, but {first!r} "
                    f"{self.input_shape[0]}: tied weights need the same columns"
                )
            self.outputs[name] = _outputs(name, table.targets, kind)
            asked = n_train
            if isinstance(asked, Mapping):
                asked = asked[name]
            order = np.random.default_rng([seed, number]).permutation(len(table.inputs))
            self._rows[name] = _parts(name, order, asked, n_val, n_test)
        if kind == "classes":
            # Tied heads need as many classes in every model.
            self.outputs = dict.fromkeys(self.outputs, max(self.outputs.values()))
        self._datasets = _scaled(tables, self._rows, kind)

    def train_dataloader(self) -> dict[str, DataLoader]:
        """Return a loader of `(inputs, targets)` batches for each name, reshuffled each pass."""
        training = {name: parts["train"] for name, parts in self._datasets.items()}
        return shuffled_by_name(training, self.batch_size, self._seed)

    def val_dataloader(self) -> dict[str, DataLoader]:
        """Return a loader for each name, in a fixed order."""
        return self._fixed("val")

    def test_dataloader(self) -> dict[str, DataLoader]:
        """Return a loader for each name, in a fixed order."""
        return self._fixed("test")

    def _fixed(self, part: str) -> dict[str, DataLoader]:
        return {
            name: batches(parts[part], self.batch_size) for name, parts in self._datasets.items()
        }


def _parts(
    name: str, order: NDArray[np.intp], n_train: int | None, n_val: int, n_test: int
) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each part; training examples come last, so that curves change no other."""
    left = len(order) - n_val - n_test
    asked = 1
    if n_train is not None:
        asked = n_train
    if not 1 <= asked <= left:
        raise ValueError(
            f"table {name!r} has {len(order)} examples, of which n_test={n_test} and "
            f"n_val={n_val} leave {max(left, 0)} for training: write others, or "
            f"n_train from 1 to {max(left, 1)}"
        )
    if n_train is not None:
        left = n_train
    ends = (n_test, n_test + n_val, n_test + n_val + left)
    test, val, train = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] : ends[2]]
    return dict(zip(_PARTS, (train, val, test), strict=True))


def _outputs(name: str, targets: NDArray[np.float32], kind: Kind) -> int:
    """Return how many outputs predict targets, or raise if they are not of a kind."""
    if kind == "numbers":
        return int(targets.shape[1])
    whole = targets.astype(np.int64)
    least, most = int(whole.min()), int(whole.max())
    if (whole != targets).any() or least < 0 or (kind == "labels" and most > 1):
        allowed = {"classes": "whole numbers from 0", "labels": "0 and 1"}[kind]
        raise ValueError(f"kind={kind}: targets of table {name!r} must be {allowed}")
    if kind == "labels":
        return int(targets.shape[1])
    if targets.shape[1] != 1:
        raise ValueError(f"kind=classes: table {name!r} has {targets.shape[1]} targets: name one")
    return most + 1


def _scaled(
    tables: Mapping[str, Table], rows: Mapping[str, Mapping[str, NDArray[np.intp]]], kind: Kind
) -> dict[str, dict[str, MemoryDataset]]:
    """Return the examples of all parts, scaled by the training examples of all tables."""
    starts = np.cumsum([0, *(len(table.inputs) for table in tables.values())])
    training = np.concatenate(
        [start + rows[n]["train"] for n, start in zip(rows, starts[:-1], strict=True)]
    )
    inputs = standardised(np.concatenate([t.inputs for t in tables.values()]), training)
    targets: dict[str, Tensor] = {}
    alike = {(table.target_names, table.targets.shape[1]) for table in tables.values()}
    if kind == "numbers" and len(alike) == 1:
        every = standardised(np.concatenate([t.targets for t in tables.values()]), training)
        split = np.split(every, starts[1:-1])
        targets = {name: torch.from_numpy(own) for name, own in zip(tables, split, strict=True)}
    for name, table in tables.items():
        if kind == "numbers" and name not in targets:
            # Models with other targets have scales of their own.
            targets[name] = torch.from_numpy(standardised(table.targets, rows[name]["train"]))
        elif kind != "numbers":
            targets[name] = torch.from_numpy(table.targets.astype(np.int64))
        if kind == "classes":
            targets[name] = targets[name][:, 0]
    found: dict[str, dict[str, MemoryDataset]] = {}
    for (name, own), x in zip(rows.items(), np.split(inputs, starts[1:-1]), strict=True):
        found[name] = {
            part: MemoryDataset(torch.from_numpy(x[which]), targets[name][which])
            for part, which in own.items()
        }
    return found
