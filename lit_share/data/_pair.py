"""What the data modules for two models have in common."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lit_share.data._arrays import SOURCES, Arrays, standardised
from lit_share.data._batches import MemoryDataset, Shuffle, batches
from lit_share.data._known import known
from lit_share.data._split import split


class PairData(LightningDataModule):
    """Two views of one data set, each with training examples of its own.

    The training examples of the two are different ones. The validation examples are the same in both views,
    and so are the test examples, so that the two models are judged on the same ground; neither is ever
    trained on. Every part has the data set's mixture of classes. Tables are standardised by what the training
    examples of both views show; images lie in `[0, 1]` already.

    Args:
        dataset: A name in `SOURCES`.
        views: What the first model sees of some examples, and what the second one sees.
        num_classes: How many classes there are in each view.
        n_a: Training examples of the first view, at least 1.
        n_b: Training examples of the second view, at least 1.
        n_val: Validation examples, at least 1.
        n_test: Test examples, at least 1.
        batch_size: Examples of a batch, at least 1; the last one of a pass may be short.
        seed: Draws the split and the order of training, at least 0.
        names: Keys of the two in the dicts of loaders.

    Raises:
        ValueError: If an argument is out of range, or the data set has too few examples.

    Example:
        >>> def see(examples):
        ...     return examples
        >>> data = PairData(
        ...     dataset="wine", views=(see, see), num_classes=(3, 3), n_a=60, n_b=20, n_val=30, n_test=60,
        ...     batch_size=20, seed=0, names=("red", "white"),
        ... )
        >>> {name: len(loader) for name, loader in data.train_dataloader().items()}
        {'red': 3, 'white': 1}
    """

    def __init__(
        self,
        *,
        dataset: str,
        views: tuple[Callable[[Arrays], Arrays], Callable[[Arrays], Arrays]],
        num_classes: tuple[int, int],
        n_a: int,
        n_b: int,
        n_val: int,
        n_test: int,
        batch_size: int,
        seed: int,
        names: Sequence[str],
    ) -> None:
        super().__init__()
        source = known(SOURCES, dataset=dataset)
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f'names={tuple(names)} must be two different ones, as in names=("a", "b")')
        first, second = names
        counts = {"n_a": n_a, "n_b": n_b, "n_val": n_val, "n_test": n_test, "batch_size": batch_size}
        for argument, count in counts.items():
            if count < 1:
                raise ValueError(f"{argument}={count} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        needed = n_a + n_b + n_val + n_test
        if needed > source.examples:
            raise ValueError(
                f"n_a + n_b + n_val + n_test = {n_a} + {n_b} + {n_val} + {n_test} = {needed}, but "
                f'"{dataset}" has {source.examples} examples: make one of them smaller'
            )
        self.batch_size = batch_size
        self.num_classes = {first: num_classes[0], second: num_classes[1]}
        self.input_shape = source.input_shape
        self._source = source
        self._views = {first: views[0], second: views[1]}
        # B is cut last: a curve over its size changes nothing else.
        self._sizes = {"test": n_test, "val": n_val, "a": n_a, "b": n_b}
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
            seen = np.concatenate([places["a"], places["b"]])
            arrays = arrays._replace(inputs=standardised(arrays.inputs, using=seen))
        for own, (name, view) in zip(("a", "b"), self._views.items(), strict=True):
            parts = {"train": places[own], "val": places["val"], "test": places["test"]}
            lengths = [len(part) for part in parts.values()]
            # Seen all at once: separate calls would put the noise of the training images on the test images.
            inputs, labels = map(torch.from_numpy, view(arrays.rows(np.concatenate(list(parts.values())))))
            cut = zip(parts, inputs.split(lengths), labels.split(lengths), strict=True)
            self._parts[name] = {part: MemoryDataset(x, y) for part, x, y in cut}

    def train_dataloader(self) -> dict[str, DataLoader]:
        """Make loaders of the training examples, in a new order each pass.

        Returns:
            A loader of `(inputs, labels)` batches for each name.
        """
        self.setup()
        return {
            name: batches(parts["train"], self.batch_size, Shuffle(len(parts["train"]), (self._seed, member)))
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
        return {name: batches(parts["test"], self.batch_size) for name, parts in self._parts.items()}
