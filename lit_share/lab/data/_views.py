"""The base class of the data modules for several models."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lit_share.lab.data._batches import MemoryDataset, batches, shuffled_by_name
from lit_share.lab.data._checks import check_sizes, known
from lit_share.lab.data._sources import SOURCES, Arrays, standardised
from lit_share.lab.data._split import split


class View(NamedTuple):
    """The data of one model.

    Args:
        see: Transforms the inputs or the labels of examples.
        num_classes: Number of classes after the transform.
        n_train: Training examples, at least 1.
        argument: Name of the user's argument for `n_train`, for error messages.
    """

    see: Callable[[Arrays], Arrays]
    num_classes: int
    n_train: int
    argument: str


class ManyViews(LightningDataModule):
    """Several views of one data set, with disjoint training examples.

    The validation examples are the same in all views, and so are the test examples, so that the
    models' scores can be compared. The split is stratified by class. Tables are standardised by
    the training examples of all views; images are in `[0, 1]` already.

    Args:
        dataset: A name in `SOURCES`.
        views: At least one view; the names are the keys in the dicts of loaders.
        n_val: Validation examples, at least 1.
        n_test: Test examples, at least 1.
        batch_size: Examples per batch, at least 1; the last batch of a pass may be smaller.
        seed: Seed of the split and the training order, at least 0.

    Raises:
        ValueError: If an argument is out of range, or the data set has too few examples.

    Example:
        >>> def see(examples):
        ...     return examples
        >>> views = {"red": View(see, 3, 60, "n_red"), "white": View(see, 3, 20, "n_white")}
        >>> data = ManyViews(
        ...     dataset="wine", views=views, n_val=30, n_test=60, batch_size=20, seed=0
        ... )
        >>> {name: len(loader) for name, loader in data.train_dataloader().items()}
        {'red': 3, 'white': 1}
    """

    def __init__(
        self,
        *,
        dataset: str,
        views: Mapping[str, View],
        n_val: int,
        n_test: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        source = known(SOURCES, dataset=dataset)
        sizes = {view.argument: view.n_train for view in views.values()}
        sizes |= {"n_val": n_val, "n_test": n_test}
        check_sizes(sizes, batch_size, seed, dataset, source)
        self.batch_size = batch_size
        self.num_classes = {name: view.num_classes for name, view in views.items()}
        self.input_shape = source.input_shape
        self._source = source
        self._views = dict(views)
        # Training parts come last, in the order of the views, so that a learning curve over the
        # size of the last view changes nothing else.
        self._sizes = {"test": n_test, "val": n_val}
        for name, view in views.items():
            self._sizes[_train(name)] = view.n_train
        self._seed = seed
        self._parts: dict[str, dict[str, MemoryDataset]] = {}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Load and split the data at the first call.

        Args:
            stage: Ignored; all stages come from one split.
        """
        # Lightning calls this once per stage, and the loaders call it for use without a trainer.
        if self._parts:
            return
        arrays = self._source.load()
        indices = split(arrays.labels, self._sizes, self._seed)
        if self._source.is_table:
            # One scale for all views: tied weights must mean the same in every model.
            training = np.concatenate([indices[_train(name)] for name in self._views])
            arrays = arrays._replace(inputs=standardised(arrays.inputs, using=training))
        for name, view in self._views.items():
            parts = {"train": indices[_train(name)], "val": indices["val"], "test": indices["test"]}
            lengths = [len(part) for part in parts.values()]
            # One call for all parts: with one call each, a seeded domain would draw the same noise
            # for the training images as for the test images.
            examples = view.see(arrays.rows(np.concatenate(list(parts.values()))))
            inputs = torch.from_numpy(examples.inputs).split(lengths)
            labels = torch.from_numpy(examples.labels).split(lengths)
            self._parts[name] = dict(zip(parts, map(MemoryDataset, inputs, labels), strict=True))

    def train_dataloader(self) -> dict[str, DataLoader]:
        """Return a loader of `(inputs, labels)` batches for each name, reshuffled each pass."""
        self.setup()
        training = {name: parts["train"] for name, parts in self._parts.items()}
        return shuffled_by_name(training, self.batch_size, self._seed)

    def val_dataloader(self) -> dict[str, DataLoader]:
        """Return a loader for each name, all with the same examples in the same order."""
        return self._fixed("val")

    def test_dataloader(self) -> dict[str, DataLoader]:
        """Return a loader for each name, all with the same examples in the same order."""
        return self._fixed("test")

    def _fixed(self, part: str) -> dict[str, DataLoader]:
        self.setup()
        return {name: batches(parts[part], self.batch_size) for name, parts in self._parts.items()}


def _train(name: str) -> str:
    return f"train {name}"
