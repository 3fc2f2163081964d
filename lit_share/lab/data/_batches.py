"""Batches of examples that lie in memory."""

import warnings
from collections.abc import Iterator

import numpy as np
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset


class MemoryDataset(TensorDataset):
    """Tensors whose first axis counts examples, cut into batches by one indexing.

    A `DataLoader` normally takes a batch's examples one at a time and stacks them, which for small inputs
    costs more than the training step.

    Args:
        *tensors: Tensors of equal length.

    Example:
        >>> import torch
        >>> MemoryDataset(torch.arange(10, 20), torch.arange(10)).__getitems__([3, 5])
        (tensor([13, 15]), tensor([3, 5]))
    """

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        """Take a whole batch, as `DataLoader` asks for it.

        Args:
            indices: Places of the batch's examples.

        Returns:
            One tensor for each of the data set's, of the batch's length.
        """
        return tuple(tensor[indices] for tensor in self.tensors)


class Shuffle(Sampler[int]):
    """A new random order for every pass over the data, known from the seed, the epoch and the pass alone.

    No random state outlives a pass, so a run that goes on from a checkpoint sees the orders that it would
    have seen without the break. A trainer names the epoch; passes count from there, because the smaller of
    two data sets goes round several times in one epoch.

    Args:
        size: Number of examples.
        seed: Numbers of at least 0 that set this sampler apart from others.

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
        """Begin an epoch; Lightning calls this on its own.

        Args:
            epoch: Its number, from 0.
        """
        self.epoch = epoch
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([*self.seed, self.epoch, self.passes])
        self.passes += 1
        return iter(rng.permutation(self.size).tolist())

    def __len__(self) -> int:
        return self.size


def batches(data: MemoryDataset, batch_size: int, shuffle: Shuffle | None = None) -> DataLoader:
    """Cut a data set into batches; the last one may be short.

    Args:
        data: The examples.
        batch_size: Examples of a batch, at least 1.
        shuffle: Their order in each pass; without it, they come as they lie.

    Returns:
        An ordinary loader, which a distributed trainer can divide between its processes.

    Example:
        >>> import torch
        >>> [len(x) for (x,) in batches(MemoryDataset(torch.zeros(5, 2)), batch_size=2)]
        [2, 2, 1]
    """
    # Lightning asks for worker processes on every loader without them. Here one indexing makes a batch, and
    # a worker would only add the cost of sending it over.
    warnings.filterwarnings("ignore", ".*does not have many workers", PossibleUserWarning)
    # The batch is complete when it leaves the data set, so `tuple` has nothing to collate.
    return DataLoader(data, batch_size, sampler=shuffle, collate_fn=tuple)
