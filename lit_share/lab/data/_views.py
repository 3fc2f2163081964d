"""What the data modules for several models have in common."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lit_share.lab.data._arrays import SOURCES, Arrays, standardised
from lit_share.lab.data._batches import MemoryDataset, Shuffle, batches
from lit_share.lab.data._known import check_sizes, known
from lit_share.lab.data._split import split


class View(NamedTuple):
    """What one model sees, and how much of it.

    Args:
        see: What it sees of some examples.
        num_classes: How many classes there are.
        n_train: Its training examples, at least 1.
        argument: What the user calls their number.
    """

    see: Callable[[Arrays], Arrays]
    num_classes: int
    n_train: int
    argument: str


class ManyViews(LightningDataModule):
    """Several views of one data set, each with training examples of its own.

    No two views have a training example in common. The validation examples are the same in all views, and so are
    the test examples, so that the models are judged on the same ground; neither is ever trained on. Every part has
    the data set's mixture of classes. Tables are standardised by what the training examples of all views show;
    images lie in `[0, 1]` already.

    Args:
        dataset: A name in `SOURCES`.
        views: At least one, by the names that are the keys in the dicts of loaders.
        n_val: Validation examples, at least 1.
        n_test: Test examples, at least 1.
        batch_size: Examples of a batch, at least 1; the last one of a pass may be short.
        seed: Draws the split and the order of training, at least 0.

    Raises:
        ValueError: If an argument is out of range, or the data set has too few examples.

    Example:
        >>> def see(examples):
        ...     return examples
        >>> views = {name: View(see, 3, n, f"n_{name}") for name, n in (("red", 60), ("white", 20), ("rose", 5))}
        >>> data = ManyViews(dataset="wine", views=views, n_val=30, n_test=60, batch_size=20, seed=0)
        >>> {name: len(loader) for name, loader in data.train_dataloader().items()}
        {'red': 3, 'white': 1, 'rose': 1}
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
        sizes = {
            **{view.argument: view.n_train for view in views.values()},
            "n_val": n_val,
            "n_test": n_test,
        }
        check_sizes(sizes, batch_size, seed, dataset, source)
        self.batch_size = batch_size
        self.num_classes = {name: view.num_classes for name, view in views.items()}
        self.input_shape = source.input_shape
        self._source = source
        self._views = dict(views)
        # Training examples are cut last, in the views' order: a curve over the size of the last one changes nothing
        # else.
        self._sizes = {
            "test": n_test,
            "val": n_val,
            **{_train(name): view.n_train for name, view in views.items()},
        }
        self._seed = seed
        self._parts: dict[str, dict[str, MemoryDataset]] = {}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 (all stages come from one split)
        """Load and split the data, the first time; the loaders do so themselves when asked without it.

        Args:
            stage: Makes no difference.
        """
        if self._parts:
            return
        arrays = self._source.load()
        places = split(arrays.labels, self._sizes, self._seed)
        if self._source.is_table:
            seen = np.concatenate([places[_train(name)] for name in self._views])
            arrays = arrays._replace(inputs=standardised(arrays.inputs, using=seen))
        for name, view in self._views.items():
            parts = {"train": places[_train(name)], "val": places["val"], "test": places["test"]}
            lengths = [len(part) for part in parts.values()]
            # Seen all at once: separate calls would put the noise of the training images on the test images.
            inputs, labels = map(
                torch.from_numpy, view.see(arrays.rows(np.concatenate(list(parts.values()))))
            )
            cut = zip(parts, inputs.split(lengths), labels.split(lengths), strict=True)
            self._parts[name] = {part: MemoryDataset(x, y) for part, x, y in cut}

    def train_dataloader(self) -> dict[str, DataLoader]:
        """Make loaders of the training examples, in a new order each pass.

        Returns:
            A loader of `(inputs, labels)` batches for each name.
        """
        self.setup()
        return {
            name: batches(
                parts["train"], self.batch_size, Shuffle(len(parts["train"]), (self._seed, member))
            )
            for member, (name, parts) in enumerate(self._parts.items())
        }

    def val_dataloader(self) -> dict[str, DataLoader]:
        """Make loaders of the validation examples.

        Returns:
            A loader of `(inputs, labels)` batches for each name, with the same examples in the same order.
        """
        self.setup()
        return {name: batches(parts["val"], self.batch_size) for name, parts in self._parts.items()}

    def test_dataloader(self) -> dict[str, DataLoader]:
        """Make loaders of the test examples.

        Returns:
            A loader of `(inputs, labels)` batches for each name, with the same examples in the same order.
        """
        self.setup()
        return {
            name: batches(parts["test"], self.batch_size) for name, parts in self._parts.items()
        }


def _train(name: str) -> str:
    return f"train {name}"
