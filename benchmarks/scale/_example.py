"""Predict what strategies cost a pair of language models on many GPUs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.scale._costs import COSTS, N, P, S, evaluate, sizes
from benchmarks.scale._operations import count, count_again
from lit_share.penalties import RECIPES


@dataclass(frozen=True)
class Machine:
    """GPUs and the network between them.

    Attributes:
        gpus: The number of GPUs, which shard each parameter.
        memory: Bytes per second that a GPU reads or writes in its memory.
        network: Bytes per second that a GPU sends, and receives at the same time.
        latency: Seconds that an all-reduce of a few bytes takes.
        launch: Seconds that the host takes to launch an operation.
        flops: Operations per second that a GPU does in training.
    """

    gpus: int = 64
    memory: float = 3.35e12
    network: float = 5e10
    latency: float = 1e-4
    launch: float = 1e-5
    flops: float = 4e14

    def all_reduce(self, size: float) -> float:
        """Return the seconds of an all-reduce of ``size`` bytes; 0 for none."""
        if size == 0.0:
            return 0.0
        # A ring sends all but a rank's own part twice: to reduce, and to distribute the sums.
        return self.latency + 2.0 * (1.0 - 1.0 / self.gpus) * size / self.network


@dataclass(frozen=True)
class Decoder:
    """The shape of a transformer without biases, with gated feed-forward layers."""

    layers: int = 32
    width: int = 4096
    hidden: int = 11008
    vocabulary: int = 32000

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of all parameters."""
        square, wide, tall = (
            (self.width, self.width),
            (self.hidden, self.width),
            (self.width, self.hidden),
        )
        layer = [square] * 4 + [wide, wide, tall, (self.width,), (self.width,)]
        words = (self.vocabulary, self.width)
        return [words, *layer * self.layers, (self.width,), words]


class Prediction(NamedTuple):
    """What a step costs each GPU.

    Attributes:
        moved: Bytes moved in memory.
        launches: Operations.
        sent: Bytes all-reduced.
        kept: Bytes kept from step to step.
        temporaries: The most bytes in temporary tensors.
        seconds: The time of the longer of memory and launches, and of the network; ``None`` if the
            host sorts groups, which takes longer.
    """

    strategy: str
    moved: float = 0.0
    launches: int = 0
    sent: float = 0.0
    kept: float = 0.0
    temporaries: float = 0.0
    seconds: float | None = 0.0


def training_seconds(model: Decoder, machine: Machine, members: int, tokens: int) -> float:
    """Return the time of a training step: six operations for each weight and token."""
    numbers = sum(map(math.prod, model.shapes()))
    return 6.0 * members * numbers * tokens / (machine.gpus * machine.flops)


def training_bytes(model: Decoder, machine: Machine, members: int) -> float:
    """Return what a rank of FSDP2 receives in a step: weights twice, and gradients, in bfloat16."""
    of = sizes(None, model.shapes(), members, machine.gpus, itemsize=2)
    return 3.0 * (1.0 - 1.0 / machine.gpus) * evaluate(N * P * 2, of)


def predict(model: Decoder, machine: Machine, members: int = 2) -> Iterator[Prediction]:
    """Predict the cost of each strategy, with float32 members that FSDP2 shards.

    Groups of inputs need matrices, so their penalties leave vectors out.
    """
    for strategy, cost in COSTS.items():
        penalty, shapes = RECIPES[strategy].penalty, model.shapes()
        if penalty is None:
            yield Prediction(strategy)
            continue
        shapes = [s for s in shapes if len(s) >= penalty.grouping.min_ndim(members)]
        of = sizes(penalty, shapes, members, machine.gpus)
        operations = count(penalty, members)
        traffic, launches = operations.traffic, operations.launches
        sent, kept = evaluate(cost.sent, of), evaluate(cost.kept, of)
        if sent > 0.0:
            again = count_again(penalty, members)
            traffic, launches = traffic + again.traffic, launches + again.launches
        moved = traffic * evaluate(P / S, of)
        block = max(map(math.prod, shapes)) / machine.gpus
        if penalty.grouping.is_elementwise(2) and not penalty.omega.weighted:
            block = min(block, 2**21)
        seconds = None
        if not penalty.omega.weighted:
            on_device = max(moved / machine.memory, len(shapes) * launches * machine.launch)
            seconds = on_device + machine.all_reduce(sent)
        # Statistics are made for each tie, then copied into one message.
        temporaries = operations.temporaries * block + 2.0 * sent
        yield Prediction(strategy, moved, len(shapes) * launches, sent, kept, temporaries, seconds)
