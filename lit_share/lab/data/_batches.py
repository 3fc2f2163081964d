"""Batches of examples in memory."""

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset


class MemoryDataset(TensorDataset):
    """A `TensorDataset` that gathers a batch with one indexing operation.

    Example:
        >>> import torch
        >>> MemoryDataset(torch.arange(10, 20), torch.arange(10)).__getitems__([3, 5])
        (tensor([13, 15]), tensor([3, 5]))
    """

    # Without this method a `DataLoader` fetches the examples of a batch one at a time and stacks
    # them, which for small inputs takes longer than the training step.
    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        """Gather the examples with these indices."""
        return tuple(tensor[indices] for tensor in self.tensors)


class Shuffle(Sampler[int]):
    """A random order for every pass over the data, determined by seed, epoch and pass.

    Args:
        size: Number of examples.
        seed: Numbers of at least 0, different for different samplers.

    Example:
        >>> shuffle = Shuffle(4, seed=(0,))
        >>> list(shuffle), list(shuffle)
        ([2, 0, 1, 3], [3, 1, 2, 0])
        >>> shuffle.set_epoch(0)
        >>> list(shuffle)
        [2, 0, 1, 3]
    """

    def __init__(self, size: int, seed: tuple[int, ...]) -> None:
        self.size = size
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Start epoch `epoch`, counted from 0, at its first pass; Lightning calls this."""
        self.epoch = epoch
        # An epoch has several passes if the data set is the smaller of two, and is repeated.
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        # A new generator for each pass leaves no random state that a checkpoint would have to save:
        # a resumed run sees the same orders as an uninterrupted one.
        rng = np.random.default_rng([*self.seed, self.epoch, self.passes])
        self.passes += 1
        return iter(rng.permutation(self.size).tolist())

    def __len__(self) -> int:
        return self.size


def batches(data: MemoryDataset, batch_size: int, shuffle: Shuffle | None = None) -> DataLoader:
    """Return a loader of batches; the last batch of a pass may be smaller.

    Args:
        data: The examples.
        batch_size: Examples per batch, at least 1.
        shuffle: The order of examples in each pass; `None` for the order of `data`.

    Returns:
        A plain `DataLoader`, whose sampler a distributed trainer can shard over its ranks.

    Example:
        >>> import torch
        >>> [len(x) for (x,) in batches(MemoryDataset(torch.zeros(5, 2)), batch_size=2)]
        [2, 2, 1]
    """
    # Lightning warns about loaders without worker processes. A batch is one indexing operation, and
    # a worker would only add the cost of sending it to the main process.
    warnings.filterwarnings("ignore", ".*does not have many workers", PossibleUserWarning)
    # `MemoryDataset` returns complete batches, so `tuple` replaces PyTorch's collation.
    return DataLoader(data, batch_size, sampler=shuffle, collate_fn=tuple)


def shuffled_by_name(
    datasets: Mapping[str, MemoryDataset], batch_size: int, seed: int
) -> dict[str, DataLoader]:
    """Return a loader for each name, each with an order of its own that is new in every pass."""
    loaders = {}
    for number, (name, dataset) in enumerate(datasets.items()):
        # The number makes the orders of several loaders independent.
        shuffle = Shuffle(len(dataset), (seed, number))
        loaders[name] = batches(dataset, batch_size, shuffle)
    return loaders
