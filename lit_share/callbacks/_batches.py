"""Batches of validation data, one at a time in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.utils._pytree import tree_map
from torch.utils.data import BatchSampler, DataLoader

from lit_share.lightnings import combined_loader, is_a

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class Batches:
    """Batches of loaders that are evaluated one after the other, or together.

    They are drawn independently of the loaders' own passes, by copies of samplers and generators,
    without worker processes, so that validation has the batches that it would have without them.
    Examples of map-style data are shuffled anew in every pass, by its number, so that all runs have
    the same order. Batches of other data, and of endless samplers, keep the order of their loader.

    Args:
        loaders: What a `val_dataloader` hook may return.
        limits: For each loader, the number of batches of a pass, at most.
        way: Who draws batches, for messages.

    Attributes:
        indices: The index of each loader's last batch in its pass.
    """

    def __init__(
        self, loaders: Any, limits: Sequence[float] | None = None, way: str = "Learned"
    ) -> None:
        self.way = way
        if not is_a(loaders, "CombinedLoader"):
            loaders = combined_loader(loaders, "sequential")
        self.together = loaders._mode != "sequential"
        parts = [loaders] if self.together else loaders.flattened
        least = [float("inf")] * len(parts)
        if limits:
            # Batches that are evaluated together end with the first limit.
            least = [min(limits)] if self.together else list(limits)
        pairs = zip(parts, least, strict=True)
        self._sources = [_source(loader, limit) for loader, limit in pairs]
        self._is_prepared = any(
            isinstance(own, DataLoader) and own.num_workers and own.worker_init_fn is not None
            for own in loaders.flattened
        )
        self._drawn = [0] * len(parts)
        self.indices = [0] * len(parts)

    @property
    def drawn(self) -> list[int]:
        """The number of batches that are drawn of each loader."""
        return list(self._drawn)

    @drawn.setter
    def drawn(self, drawn: Sequence[int]) -> None:
        # A run may resume with another number of loaders, which begin anew.
        same = len(drawn) == len(self._drawn)
        self._drawn = list(drawn) if same else [0] * len(self._drawn)

    def draw(self) -> list[Any]:
        """Return the next batch of each loader, all of which must have one."""
        pairs = zip(self._sources, self._drawn, strict=True)
        try:
            batches = [batch for own, drawn in pairs for batch in own.batch(drawn)]
        except Exception as error:
            if not self._is_prepared:
                raise
            raise ValueError(
                f"{self.way} reads validation data without worker processes, so that no "
                f"worker_init_fn has run, and this fails ({error}): open what examples are read "
                f"from in the dataset, or write {self.way}(loader=...)"
            ) from error
        if not batches or len(batches) < len(self._sources):
            raise ValueError(
                "validation data have a loader without a batch: leave it out, give it examples "
                f"(and with drop_last=True, a whole batch of them), or write {self.way}(loader=...)"
            )
        self._drawn = [drawn + 1 for drawn in self._drawn]
        self.indices = [own.index for own in self._sources]
        return batches

    def in_order(self) -> list[Iterator[Any]]:
        """Return the batches of one pass over each loader, in the loader's order."""
        return [own.in_order() for own in self._sources]


def transferred(trainer: Trainer, module: LightningModule, batch: Any, index: int = 0) -> Any:
    """Return a batch of the loader of an index as steps get it: converted, and on the device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=index)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=index)


class _Shuffled:
    """Batches of a map-style dataset, of the size of the loader's."""

    def __init__(self, loader: DataLoader[Any], limit: int) -> None:
        self.loader = loader
        batch_sampler = _independent(loader).batch_sampler
        assert batch_sampler is not None
        self.batches = list(islice(batch_sampler, limit))
        # A batch sampler of the user may have reasons for which examples come together.
        self.is_plain = type(loader.batch_sampler) is BatchSampler
        self.epoch, self.index, self.order = -1, 0, self.batches

    def batch(self, number: int) -> list[Any]:
        """Return a list of the batch, empty if there is none."""
        if not self.batches:
            return []
        epoch, self.index = divmod(number, len(self.batches))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self._shuffled(epoch)
        return [self._fetch(self.order[self.index])]

    def in_order(self) -> Iterator[Any]:
        return map(self._fetch, self.batches)

    def _fetch(self, indices: list[Any]) -> Any:
        dataset = self.loader.dataset
        fetch = getattr(dataset, "__getitems__", None)
        examples = fetch(indices) if fetch else [dataset[i] for i in indices]
        return self.loader.collate_fn(examples)

    def _shuffled(self, seed: int) -> list[list[Any]]:
        rng = torch.Generator().manual_seed(seed)
        if not self.is_plain:
            order = torch.randperm(len(self.batches), generator=rng)
            return [self.batches[i] for i in order.tolist()]
        examples = [example for batch in self.batches for example in batch]
        order = torch.randperm(len(examples), generator=rng)
        shuffled, size = [examples[i] for i in order.tolist()], len(self.batches[0])
        return [shuffled[begin : begin + size] for begin in range(0, len(shuffled), size)]


class _InOrder:
    """Batches of any iterable."""

    def __init__(self, loader: Any, limit: float) -> None:
        self.loader, self.limit = _independent(loader), limit
        self.passed, self.index, self.iterator = 0, -1, self.in_order()

    def batch(self, number: int) -> list[Any]:
        """Return a list of the batch, empty if there is none."""
        # After a trial, batches are drawn from the first again.
        if number < self.passed:
            self.passed, self.index, self.iterator = 0, -1, self.in_order()
        # A resumed run has drawn more than this iterator.
        while self.passed < number:
            before = self.index
            if not self._next():
                return []
            if self.index <= before:
                # The length of a pass is known, so that all others need not be read.
                self.passed += (number - self.passed) // (before + 1) * (before + 1)
        return self._next()

    def _next(self) -> list[Any]:
        batch = list(islice(self.iterator, 1))
        if not batch:
            self.index, self.iterator = -1, self.in_order()
            batch = list(islice(self.iterator, 1))
        self.index += 1
        self.passed += 1
        return batch

    def in_order(self) -> Iterator[Any]:
        batches = iter(self.loader)
        for batch in islice(batches, _stop(self.limit)):
            # Iterating over a CombinedLoader also gives the index of the batch and of its loader.
            yield batch[0] if is_a(self.loader, "CombinedLoader") else batch


def _source(loader: Any, limit: float) -> _Shuffled | _InOrder:
    is_map = isinstance(loader, DataLoader) and loader.batch_sampler is not None
    if is_map and hasattr(loader.dataset, "__getitem__") and hasattr(loader.dataset, "__len__"):
        try:
            return _Shuffled(loader, int(min(limit, len(loader))))
        except TypeError:
            # A sampler without a length may be endless, which only a limit ends.
            if limit < float("inf"):
                return _Shuffled(loader, int(limit))
    return _InOrder(loader, limit)


def _independent(loader: Any) -> Any:
    """Return a copy of a loader, whose passes change no sampler or generator of the loader."""
    if is_a(loader, "CombinedLoader"):
        return combined_loader(tree_map(_independent, loader.iterables), loader._mode)
    if not isinstance(loader, DataLoader):
        return loader
    names = ("batch_sampler", "sampler", "generator")
    # Copied together, as a sampler has the generator of its loader.
    state = {name: getattr(loader, name) for name in names}
    try:
        state = deepcopy(state, {id(loader.dataset): loader.dataset})
    except Exception as error:
        rank_zero_warn(
            f"{type(loader.sampler).__name__} cannot be copied ({error}), so that drawing from it "
            "may change which batches validation has: let it make iterators in __iter__"
        )
    own = copy(loader)
    vars(own).update(
        num_workers=0, prefetch_factor=None, persistent_workers=False, _iterator=None, **state
    )
    return own


def _stop(limit: float) -> int | None:
    return None if limit == float("inf") else int(limit)
