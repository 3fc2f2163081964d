"""Compare steps along edges with those towards the mean: `python -m benchmarks.speed graph_prox`.

Six models of a million numbers in 20 layers, in two clusters. Steps write to the members, which are
restored before each step; what that takes is measured and subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from benchmarks.speed._clock import DEVICE, Call, Row, alternate, spread
from lit_share.functional import Penalty, TieBatch, TieTensors

REPEATS, LAYERS, MODELS, WIDTH = 15, 20, 6, 224
EDGES = {"cluster_tie": "adaptive", "robust_tie": "star"}
# The most that a step by tensor and by output may take, relative to `layer_tie`.
TARGETS = {"tensor": 2.0, "output": 6.0}
# Steps that make few groups equal, and those of a cluster.
STEPS = {"tensor": (4e-5, 4e-3), "output": (7e-6, 7e-4)}


def layers() -> list[list[Tensor]]:
    """The members of each tie."""
    ties = []
    for _ in range(LAYERS):
        middles = 0.05 * torch.randn(2, WIDTH, WIDTH, device=DEVICE)
        noise = 1e-3 * torch.randn(MODELS, WIDTH, WIDTH, device=DEVICE)
        ties.append([middles[i % 2] + own for i, own in enumerate(noise)])
    return ties


def step_of(penalty: Penalty, size: float, start: list[list[Tensor]]) -> Call:
    """Return a call that restores the members and takes the proximal step."""
    ties = [TieTensors([w.clone() for w in own], steps=[size] * MODELS) for own in start]
    batch = TieBatch(penalty, ties)

    def take() -> None:
        restore(ties, start)
        batch.prox_()

    return take


def restore(ties: list[TieTensors], start: list[list[Tensor]]) -> None:
    """Write the starting values to the members."""
    for tie, own in zip(ties, start, strict=True):
        for member, value in zip(tie.members, own, strict=True):
            member.copy_(value)


def measure() -> Iterator[Row]:
    """The rows."""
    start = layers()
    idle = [TieTensors([w.clone() for w in own]) for own in start]
    mean = Penalty("l1", "tensor", "mean")
    for (recipe, edges), (groups, sizes) in product(EDGES.items(), STEPS.items()):
        for size in sizes:
            graph = Penalty("l1", groups, "graph", edges=edges)
            contestants = {
                "graph": step_of(graph, size, start),
                "mean": step_of(mean, size, start),
                "nothing": lambda: restore(idle, start),
            }
            times = alternate(contestants, REPEATS)
            rows = zip(times["graph"], times["mean"], times["nothing"], strict=True)
            ratios = [(graph - none) / (mean - none) for graph, mean, none in rows]
            what = f"{recipe} by {groups}, step {size:g}, 6 models, 20 layers"
            yield spread(what, ratios, against="layer_tie", target=TARGETS[groups])
