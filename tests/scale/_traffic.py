"""Everything that a process sends, by the phase of training in which it does."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import torch
from lightning.pytorch import Callback
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The collectives of torch, and which of their tensors is the largest: it is reduced, gathered or
# scattered. A barrier has a tensor of one byte, which is not sent.
KINDS = {
    "c10d.allreduce_": "all-reduce",
    "c10d.allgather_": "all-gather",
    "c10d._allgather_base_": "all-gather",
    "c10d._reduce_scatter_base_": "reduce-scatter",
    "c10d.broadcast_": "broadcast",
    "c10d.barrier": "barrier",
    "_c10d_functional.all_reduce": "all-reduce",
    "_c10d_functional.all_gather_into_tensor": "all-gather",
}
# What waits for a collective, and sends nothing.
SILENT = {"_c10d_functional.wait_tensor", "_c10d_functional._wrap_tensor_autograd"}


class Sent(NamedTuple):
    """How many messages, and the bytes of all of them."""

    messages: int
    payload: int


class Traffic(TorchDispatchMode):
    """Note each collective that this process starts, from Python or C++."""

    def __init__(self):
        super().__init__()
        self.phase = "before"
        self.noted: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # DTensor does its work first, which may be collectives, and then calls this mode for them.
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        name = str(function).removesuffix(".default")
        if function.namespace in ("c10d", "_c10d_functional") and name not in SILENT:
            self.noted[self.phase].append((KINDS[name], payload(name, args)))
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        self.began = collectives_so_far()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        if exception == (None, None, None):
            # Process groups count their collectives, so none was missed.
            noted = sum(map(len, self.noted.values()))
            assert collectives_so_far() - self.began == noted

    def of(self, phase):
        """What was sent in a phase, by its kind."""
        counts, sizes = Counter(), Counter()
        for kind, size in self.noted[phase]:
            counts[kind] += 1
            sizes[kind] += size
        return {kind: Sent(count, sizes[kind]) for kind, count in counts.items()}


def collectives_so_far():
    """How many collectives all process groups have started."""
    groups = distributed.distributed_c10d._world.pg_map
    return sum(group._get_sequence_number_for_group() for group in groups)


def payload(name, args):
    if name == "c10d.barrier":
        return 0
    sizes = [leaf.nbytes for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    if name == "_c10d_functional.all_gather_into_tensor":
        return sizes[0] * args[1]
    if name == "c10d.allgather_":
        return sum(sizes[:-1])
    return max(sizes)


class Phases(Callback):
    """Tells the phases of training; the first of the callbacks."""

    def __init__(self, traffic):
        self.traffic = traffic

    def on_fit_start(self, *_):
        self.traffic.phase = "start"

    def on_train_batch_start(self, *_):
        self.traffic.phase = "step"

    def on_train_batch_end(self, trainer, *_):
        if trainer.is_last_batch:
            self.traffic.phase = "epoch"

    def on_train_end(self, *_):
        self.traffic.phase = "end"


def difference(more, less):
    """What is sent more in one training than in another, by kind."""
    kinds = more.keys() | less.keys()
    nothing = Sent(0, 0)
    changes = {}
    for kind in kinds:
        a, b = more.get(kind, nothing), less.get(kind, nothing)
        changes[kind] = Sent(a.messages - b.messages, a.payload - b.payload)
    return {kind: change for kind, change in changes.items() if change != nothing}
