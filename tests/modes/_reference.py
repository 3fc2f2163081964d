"""Training with a penalty in the loss or textbook proximal steps, as a float64 loop.

What modes mean for the sequence of steps is written out here, too. Nothing here imports the package
or Lightning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .._norms import norms_of_groups, root_of_size, shrink_groups

BATCHES, SAMPLES = 6, 8
WIDTH = 4
LEAVES = ("0.weight", "0.bias", "2.weight", "2.bias")
Weights = dict[str, Tensor]


def numbers(seed: int, *shape: int) -> Tensor:
    """Few bits, so that they are the same in all precisions."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).double() / 8


def data(outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, and targets for each of two models."""
    total = BATCHES * SAMPLES
    return numbers(0, total, 4), numbers(1, total, outputs), numbers(2, total, outputs)


def start(outputs: int) -> Weights:
    """The weights of the two models."""
    shapes = ((WIDTH, 4), (WIDTH,), (outputs, WIDTH), (outputs,))
    return {
        f"{root}.{leaf}": numbers(10 * seed + i, *shape)
        for seed, root in enumerate("ab", start=1)
        for i, (leaf, shape) in enumerate(zip(LEAVES, shapes, strict=True))
    }


def net(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return F.linear(torch.tanh(F.linear(x, w, b)), v, c)


def loss(weights: Weights, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    a, b = ([weights[f"{root}.{leaf}"] for leaf in LEAVES] for root in "ab")
    return F.mse_loss(net(x, *a), y) + F.mse_loss(net(x, *b), z)


# The rows: what is penalised


def pairs(weights: Weights) -> list[tuple[Tensor, Tensor]]:
    return [(weights[f"a.{leaf}"], weights[f"b.{leaf}"]) for leaf in LEAVES]


def matrices(weights: Weights) -> list[Tensor]:
    return [w for w in weights.values() if w.ndim == 2]


def ramp(n: int) -> Tensor:
    """The weights of OWL."""
    return torch.linspace(1.0, 0.4, n, dtype=torch.float64)


def value_soft_tie(weights: Weights, origin: Weights) -> Tensor:
    return sum(0.5 * (a - b).square().sum() for a, b in pairs(weights))


def value_l2_sp(weights: Weights, origin: Weights) -> Tensor:
    return sum(0.5 * (w - origin[name]).square().sum() for name, w in weights.items())


def precision(outputs: int) -> Weights:
    """Weights of single elements, some of which are 0."""
    return {
        name: numbers(100 + i, *w.shape).abs() * 2
        for i, (name, w) in enumerate(start(outputs).items())
    }


def value_ewc(weights: Weights, origin: Weights) -> Tensor:
    own = precision(len(origin["a.2.bias"]))
    return sum(0.5 * (own[n] * (w - origin[n]).square()).sum() for n, w in weights.items())


def value_exact_tie(weights: Weights, origin: Weights) -> Tensor:
    return sum((a - b).abs().sum() for a, b in pairs(weights))


def units(w: Tensor) -> Tensor:
    return w.reshape(len(w), -1)


def value_unit_tie(weights: Weights, origin: Weights) -> Tensor:
    """Groups of p elements count √p-fold, as in all sums of norms below."""
    return sum(norms_of_groups(units(a - b), 1).sum() for a, b in pairs(weights))


def value_growl(weights: Weights, origin: Weights) -> Tensor:
    """Σ w_k √p ‖W[:, j]‖_(k)."""
    return sum(
        (ramp(w.shape[1]) * norms_of_groups(w, 0).sort(descending=True).values).sum()
        for w in matrices(weights)
    )


def value_group_lasso(weights: Weights, origin: Weights) -> Tensor:
    return sum(norms_of_groups(w, 0).sum() for w in matrices(weights))


def value_layer_tie(weights: Weights, origin: Weights) -> Tensor:
    return sum(norms_of_groups(a - b) for a, b in pairs(weights))


def value_oscar(weights: Weights, origin: Weights) -> Tensor:
    """Σ w_k |w|_(k)."""
    return sum(
        (ramp(w.numel()) * w.abs().flatten().sort(descending=True).values).sum()
        for w in matrices(weights)
    )


def stacked(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a.flatten(), b.flatten()])


def value_trace_norm(weights: Weights, origin: Weights) -> Tensor:
    return sum(torch.linalg.svdvals(stacked(a, b)).sum() for a, b in pairs(weights))


def value_value_tie(weights: Weights, origin: Weights) -> Tensor:
    """Σ |w_k − w_l| / (n − 1), over all pairs of numbers of a matrix."""
    return sum(
        (w.reshape(-1, 1) - w.reshape(1, -1)).abs().sum() / 2 / (w.numel() - 1)
        for w in matrices(weights)
    )


def soft_threshold(difference: Tensor, t: float) -> Tensor:
    return difference.sign() * (difference.abs() - t).clamp_min(0.0)


def prox_of_pairs(
    shrink: Callable[[Tensor, float], Tensor], weights: Weights, t_a: float, t_b: float
) -> None:
    """argmin ‖A' − A‖²/2t_a + ‖B' − B‖²/2t_b + ‖A' − B'‖: the difference shrinks by t_a + t_b."""
    for a, b in pairs(weights):
        shrunk = shrink(a - b, t_a + t_b)
        motion = a - b - shrunk
        new_a = a - t_a / (t_a + t_b) * motion
        b.copy_(torch.where(shrunk == 0.0, new_a, b + t_b / (t_a + t_b) * motion))
        a.copy_(new_a)


def owl(n: Tensor, w: Tensor) -> Tensor:
    """Sort, subtract the weights, pool neighbours until nothing increases, clip, undo the sort."""
    order = n.argsort(descending=True)
    blocks: list[list[float]] = []
    for shifted in (n[order] - w).tolist():
        blocks.append([shifted])
        while len(blocks) > 1 and sum(blocks[-2]) / len(blocks[-2]) < sum(blocks[-1]) / len(
            blocks[-1]
        ):
            last = blocks.pop()
            blocks[-1] += last
    pooled = [max(sum(block) / len(block), 0.0) for block in blocks for _ in block]
    return torch.empty_like(n).index_copy_(0, order, torch.tensor(pooled, dtype=n.dtype))


def prox_growl(weights: Weights, t_a: float, t_b: float) -> None:
    for name, w in weights.items():
        if w.ndim == 2:
            n, t = w.norm(dim=0), t_a if name[0] == "a" else t_b
            shrunk = owl(n, root_of_size(w, 0) * t * ramp(len(n)))
            w.mul_(torch.where(n > 0.0, shrunk / n, 0.0))


def prox_oscar(weights: Weights, t_a: float, t_b: float) -> None:
    for name, w in weights.items():
        if w.ndim == 2:
            size, t = w.abs().flatten(), t_a if name[0] == "a" else t_b
            w.copy_(w.sign() * owl(size, t * ramp(len(size))).view_as(w))


def prox_trace_norm(weights: Weights, t_a: float, t_b: float) -> None:
    """Singular values lose t."""
    assert t_a == t_b
    for a, b in pairs(weights):
        u, s, v = torch.linalg.svd(stacked(a, b), full_matrices=False)
        for w, row in zip((a, b), u @ torch.diag((s - t_a).clamp_min(0.0)) @ v, strict=True):
            w.copy_(row.view_as(w))


def prox_value_tie(weights: Weights, t_a: float, t_b: float) -> None:
    """Sort, pull each number by how many are above and below, pool what is out of order."""
    for name, w in weights.items():
        if w.ndim != 2:
            continue
        t, n, numbers = t_a if name[0] == "a" else t_b, w.numel(), w.flatten()
        order = numbers.argsort()
        blocks: list[list[float]] = []
        for k, number in enumerate(numbers[order].tolist(), start=1):
            blocks.append([number - t * (2 * k - n - 1) / (n - 1)])
            while len(blocks) > 1 and sum(blocks[-2]) / len(blocks[-2]) >= sum(blocks[-1]) / len(
                blocks[-1]
            ):
                last = blocks.pop()
                blocks[-1] += last
        pooled = [sum(block) / len(block) for block in blocks for _ in block]
        moved = torch.empty_like(numbers)
        moved[order] = torch.tensor(pooled, dtype=w.dtype)
        w.copy_(moved.view_as(w))


def prox_group_lasso(weights: Weights, t_a: float, t_b: float) -> None:
    for name, w in weights.items():
        if w.ndim == 2:
            w.copy_(shrink_groups(w, t_a if name[0] == "a" else t_b, 0))


@dataclass(frozen=True)
class Strategy:
    """A row.

    Attributes:
        value: Ω of the weights, and of those that training started from.
        prox: The proximal step of sizes t_a and t_b for the models; ``None`` adds to the loss.
    """

    strength: float
    value: Callable[[Weights, Weights], Tensor] | None
    prox: Callable[[Weights, float, float], None] | None = None


STRATEGIES = {
    "soft_tie": Strategy(0.4, value_soft_tie),
    "exact_tie": Strategy(0.3, value_exact_tie, partial(prox_of_pairs, soft_threshold)),
    "unit_tie": Strategy(
        0.2,
        value_unit_tie,
        partial(prox_of_pairs, lambda d, t: shrink_groups(units(d), t, 1).view_as(d)),
    ),
    "layer_tie": Strategy(
        0.2,
        value_layer_tie,
        partial(prox_of_pairs, shrink_groups),
    ),
    # Of a pair, whose only edge has the weight 1.
    "cluster_tie": Strategy(
        0.2,
        value_layer_tie,
        partial(prox_of_pairs, shrink_groups),
    ),
    # Of a pair, whose spokes are one edge.
    "robust_tie": Strategy(
        0.2,
        value_layer_tie,
        partial(prox_of_pairs, shrink_groups),
    ),
    "value_tie": Strategy(0.3, value_value_tie, prox_value_tie),
    "growl": Strategy(0.3, value_growl, prox_growl),
    "oscar": Strategy(0.2, value_oscar, prox_oscar),
    "group_lasso": Strategy(0.2, value_group_lasso, prox_group_lasso),
    "trace_norm": Strategy(0.4, value_trace_norm, prox_trace_norm),
    "hard_tie": Strategy(0.0, None),
    "l2_sp": Strategy(0.6, value_l2_sp),
    "ewc": Strategy(0.6, value_ewc),
}
HARD = "hard_tie"


# The columns: what a mode means for the steps


MOMENTUM = partial(torch.optim.SGD, momentum=0.5)


@dataclass(frozen=True)
class Mode:
    """What a mode means for the sequence of steps.

    Attributes:
        optimizer: From parameters and ``lr``.
        rates: Of the two models; of two optimizers if they are different.
        accumulate: Batches per step; the last step of an epoch has the remaining batches.
        clip: ``"norm"`` or ``"value"``, and the most that it may be.
        decay: What learning rates are multiplied with after each step.
        skipped: Steps that fp16 skips.
        fused: Whether the Trainer's optimizer is fused; the loop's is not.
        average: The decay of a moving average of the weights, which they are at the end.
        keep_zeros: Whether what the proximal step has made zero stays so.
    """

    optimizer: Callable[..., torch.optim.Optimizer] = MOMENTUM
    rates: tuple[float, float] = (0.2, 0.2)
    epochs: int = 1
    accumulate: int = 1
    clip: tuple[str, float] | None = None
    decay: float = 1.0
    skipped: tuple[int, ...] = ()
    fused: bool = False
    average: float | None = None
    keep_zeros: bool = False


PLAIN = Mode()


def clip_(gradients: list[Tensor], how: str, most: float) -> None:
    if how == "value":
        for gradient in gradients:
            gradient.clamp_(-most, most)
    else:
        total = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        for gradient in gradients:
            gradient.mul_((most / (total + 1e-6)).clamp_max(1.0))  # torch adds 1e-6, too


@cache
def train(
    row: str, mode: Mode = PLAIN, outputs: int = 2, factor: float = 1.0
) -> tuple[Weights, float]:
    """Train with ``factor`` times the strength; return weights, and the last strength · Ω."""
    strategy, origin = STRATEGIES[row], start(outputs)
    strength = factor * strategy.strength
    if row == HARD:
        one = {
            leaf: ((origin[f"a.{leaf}"] + origin[f"b.{leaf}"]) / 2).requires_grad_()
            for leaf in LEAVES
        }
        weights = {f"{root}.{leaf}": one[leaf] for root in "ab" for leaf in LEAVES}
        groups = [list(one.values())]
    else:
        weights = {name: w.clone().requires_grad_() for name, w in origin.items()}
        groups = [[w for name, w in weights.items() if name[0] == root] for root in "ab"]
    optimizers = [
        mode.optimizer(group, lr=lr) for group, lr in zip(groups, mode.rates, strict=False)
    ]
    parameters = [w for group in groups for w in group]
    batches = list(zip(*(t.split(SAMPLES) for t in data(outputs)), strict=True))
    windows = [
        batches[i : i + mode.accumulate] for i in range(0, len(batches), mode.accumulate)
    ] * mode.epochs
    average = None
    zeros = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}

    def objective(window: list[tuple[Tensor, ...]]) -> Tensor:
        total = sum(loss(weights, *batch) for batch in window) / mode.accumulate
        if strategy.value is not None and strategy.prox is None:
            total = total + strength * strategy.value(weights, origin)
        return total

    def backward(window: list[tuple[Tensor, ...]]) -> Tensor:
        total = objective(window)
        gradients = list(torch.autograd.grad(total, parameters))
        if mode.clip is not None:
            clip_(gradients, *mode.clip)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return total

    for step, window in enumerate(windows):
        if step in mode.skipped:
            continue
        backward(window)
        for optimizer in optimizers:
            optimizer.step(
                partial(backward, window) if isinstance(optimizer, torch.optim.LBFGS) else None
            )
        with torch.no_grad():
            if strategy.prox is not None and strength > 0.0:
                for name, w in weights.items():
                    w.masked_fill_(zeros[name], 0.0)
                strategy.prox(weights, *(strength * o.param_groups[0]["lr"] for o in optimizers))
                if mode.keep_zeros:
                    zeros = {name: w == 0.0 for name, w in weights.items()}
            if mode.average is not None:
                now = {name: w.detach().clone() for name, w in weights.items()}
                average = average or now
                average = {
                    name: mode.average * average[name] + (1 - mode.average) * w
                    for name, w in now.items()
                }
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] *= mode.decay
    weights = {name: w.detach() for name, w in weights.items()}
    return average or weights, penalty(row, weights, factor)


def penalty(row: str, weights: Weights, factor: float = 1.0) -> float:
    """Strength · Ω."""
    strategy = STRATEGIES[row]
    if strategy.value is None:
        return 0.0
    weights = {name: w.double() for name, w in weights.items()}
    outputs = len(weights["a.2.bias"])
    return factor * strategy.strength * float(strategy.value(weights, start(outputs)))
