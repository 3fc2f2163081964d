"""Ranks that are threads, and the shards that each of them has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lit_share.functional import Shard

WORLD = 3


class Threads:
    """``WORLD`` threads, each with the shards of one rank, that reduce together."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(WORLD, timeout=60)
        self.sent: list[list[Tensor]] = [[] for _ in range(WORLD)]

    def ranks(self, rank: int) -> Ranks:
        return Ranks(self, rank)

    def run(self, work: Callable[[int], object]) -> None:
        def one(rank: int) -> None:
            try:
                work(rank)
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(WORLD) as pool:
            futures = [pool.submit(one, rank) for rank in range(WORLD)]
        errors = [error for error in (f.exception() for f in futures) if error is not None]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        assert not errors


class Ranks:
    """What one of these threads reduces with."""

    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.rank = threads, rank

    def sum(self, tensor: Tensor) -> Tensor:
        sent, barrier = self.threads.sent, self.threads.barrier
        sent[self.rank].append(tensor)
        barrier.wait()
        messages = [own[-1] for own in sent]
        barrier.wait()
        assert len({(m.shape, m.dtype) for m in messages}) == 1, "ranks send different things"
        return sum(messages, torch.zeros_like(tensor))


def shard_of(tensor: Tensor, dim: int, rank: int, ranks: Any = None) -> Shard:
    """As `torch.chunk` does it: all of one size, but the last ones are smaller, or empty."""
    each = -(-tensor.shape[dim] // WORLD)
    return Shard(dim, min(rank * each, tensor.shape[dim]), tensor.shape[dim], ranks)


def cut(tensor: Tensor, dim: int, rank: int) -> Tensor:
    """A view of the shard of a rank."""
    shard = shard_of(tensor, dim, rank)
    each = -(-shard.length // WORLD)
    return tensor.narrow(dim, shard.begin, min(each, shard.length - shard.begin))
