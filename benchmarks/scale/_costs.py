"""What strategies cost in memory traffic, messages and memory, as formulas.

docs/scale.md prints these formulas, `tests/scale` compares them with what is really sent and kept,
and `_example` evaluates them. They hold for ties of members that are trained, have one dtype and,
with FSDP2, are sharded along dimension 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sympy import Expr, Integer, Symbol, symbols

from lit_share import Penalty

N, T, P, G, D, A, S, b = symbols("N T P G D A S b", positive=True)
SYMBOLS: Mapping[Symbol, str] = {
    N: "members of a tie",
    T: "ties of a penalty",
    P: "numbers of one member, summed over ties",
    G: "groups, summed over ties",
    D: "the different numbers of groups of ties, summed",
    A: "parameters of the module, tied or not",
    S: "ranks that shard each parameter with FSDP2; 1 in a single process and with DDP",
    b: "bytes of a number: 4 for float32",
}
ZERO, ONE = Integer(0), Integer(1)

Sizes = Mapping[Symbol, int]


@dataclass(frozen=True)
class Cost:
    """What a strategy costs in every optimizer step, on each rank.

    Attributes:
        traffic: Bytes that are read and written at least, if nothing stays in a cache from one pass
            over the members to the next.
        sent: Bytes that are all-reduced in one message, if FSDP2 shards along dimension 0; no
            message for 0. Other modes send nothing.
        kept: Bytes kept from step to step.
    """

    traffic: Expr
    sent: Expr = ZERO
    kept: Expr = ZERO


# Statistics are float64. `value_tie` has no row: it sorts the numbers of a tensor, whose time no
# count of bytes predicts.
COSTS: Mapping[str, Cost] = {
    "none": Cost(ZERO),
    # Weights and gradients are read, gradients are written.
    "l2": Cost(3 * N * P * b / S),
    # Weights are read and written.
    "lasso": Cost(2 * N * P * b / S),
    # Weights are read for the norms, and once more to be moved.
    "group_lasso": Cost(3 * N * P * b / S, 8 * G),
    "oscar": Cost(3 * N * P * b / S, 8 * G, 8 * D),
    "growl": Cost(3 * N * P * b / S, 8 * G, 8 * D),
    "soft_tie": Cost(3 * N * P * b / S),
    "exact_tie": Cost(2 * N * P * b / S),
    # A unit is moved while it is in the cache.
    "unit_tie": Cost(2 * N * P * b / S),
    "layer_tie": Cost(3 * N * P * b / S, 8 * T),
    # Products of all members with each other; a pair sends what `layer_tie` does.
    "cluster_tie": Cost(3 * N * P * b / S, 8 * N**2 * T, 4 * N * (N - 1) * T),
    "depth_tie": Cost(3 * N * P * b / S, 8 * N**2 * T),
    "robust_tie": Cost(3 * N * P * b / S, 8 * N**2 * T),
    # The first member has no gradient.
    "follow": Cost((3 * N - 2) * P * b / S),
    "l2_sp": Cost(4 * N * P * b / S, kept=N * P * b / S),
    # As `l2_sp`, with a precision, which is read and kept, too.
    "ewc": Cost(5 * N * P * b / S, kept=2 * N * P * b / S),
    "joint_lasso": Cost(3 * N * P * b / S, 8 * G),
    "trace_norm": Cost(3 * N * P * b / S, 8 * N**2 * T),
    "hard_tie": Cost(ZERO),
}

Kind = Literal["all-reduce", "all-gather", "reduce-scatter", "barrier"]


@dataclass(frozen=True)
class Volume:
    """Messages of one kind.

    Attributes:
        kind: The collective.
        messages: Their number.
        payload: The bytes of all of them: of the tensors that are reduced, gathered or scattered.
    """

    kind: Kind
    messages: Expr
    payload: Expr


@dataclass(frozen=True)
class Event:
    """What is sent at another time than in a step, if FSDP2 shards along dimension 0.

    Attributes:
        when: The time.
        what: What is sent, in words.
        volumes: The messages.
    """

    when: str
    what: str
    volumes: tuple[Volume, ...] = ()


# What training itself sends in a step, of tied members alone: payloads by the collective.
TRAINING: Mapping[str, Mapping[Kind, Expr]] = {
    "DDP": {"all-reduce": N * P * b},
    "FSDP2": {"all-gather": N * P * b, "reduce-scatter": N * P * b},
    "FSDP2, resharded after the forward pass": {
        "all-gather": 2 * N * P * b,
        "reduce-scatter": N * P * b,
    },
}

_METRICS = T + 7

EVENTS: Mapping[str, Event] = {
    "start": Event("start of training", "nothing, whatever the penalty"),
    "epoch": Event(
        "end of an epoch",
        "for each member, how many of its numbers are NaN or infinite",
        (Volume("all-reduce", ONE, 8 * N * T),),
    ),
    "first step": Event(
        "first step of `cluster_tie`",
        "distances of the members, for the weights of edges",
        (Volume("all-reduce", ONE, 4 * N * (N - 1) * T),),
    ),
    "starting values": Event(
        "checkpoint of `l2_sp`, twice of `ewc`",
        "starting values and precision, to the host of every rank; short shards are padded",
        (Volume("all-gather", N * T, N * P * b),),
    ),
    "masks": Event(
        "checkpoint with `keep_zeros` or `keep_tied`",
        "masks, unless groups span shards",
        (Volume("all-gather", T, G),),
    ),
    "monitor, start": Event(
        "`SharingMonitor`, start of training",
        "sums of distances",
        (Volume("all-reduce", ONE, 24 * T),),
    ),
    "monitor, epoch": Event(
        "`SharingMonitor`, end of an epoch",
        "sums of distances, counts of zeros and of equal numbers, and which members differ",
        (Volume("all-reduce", 4 * ONE, 32 * T + 8 * A + 4 * N**2 * T),),
    ),
    "monitor, penalty": Event(
        "the same, for each penalty",
        "its value; or the statistics that a step sends, if it sends any",
        (Volume("all-reduce", ONE, 8 * ONE),),
    ),
    "monitor, log": Event(
        "the same, also with DDP",
        "what Lightning's `log` sends for each of T + 7 metrics; `per_tie=False` leaves 7",
        (
            Volume("barrier", 2 * _METRICS, ZERO),
            Volume("all-reduce", 2 * _METRICS, 12 * _METRICS),
        ),
    ),
}


def sizes(
    penalty: Penalty | None,
    shapes: Sequence[Sequence[int]],
    members: int,
    ranks: int = 1,
    itemsize: int = 4,
    parameters: int | None = None,
) -> Sizes:
    """Return the numbers that the symbols stand for.

    Args:
        penalty: The penalty, which says what a group is.
        shapes: The shape of the members of each tie.
        members: The members of each tie.
        ranks: The ranks that shard each parameter.
        itemsize: The bytes of a number.
        parameters: The parameters of the module; ``None`` if all are tied.
    """
    groups = [0]
    if penalty is not None:
        masks = [penalty.grouping.mask_shape(shape) for shape in shapes]
        groups = [math.prod(mask) for mask in masks if mask is not None]
    ties, numbers = len(shapes), sum(map(math.prod, shapes))
    if parameters is None:
        parameters = members * ties
    distinct = sum(set(groups))
    values = (members, ties, numbers, sum(groups), distinct, parameters, ranks, itemsize)
    return dict(zip(SYMBOLS, values, strict=True))


def evaluate(formula: Expr, of: Sizes) -> float:
    """Return the value of a formula."""
    return float(formula.subs(dict(of)))
