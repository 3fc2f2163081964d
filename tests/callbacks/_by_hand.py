"""Proximal steps, written out plainly."""

from __future__ import annotations

import torch

from .._norms import root_of_size, shrink_groups
from ._modules import pairs


def ramp_weights(n):
    return torch.linspace(1.0, 0.2, n, dtype=torch.float64)


def shrink(x, t):
    return x.sign() * (x.abs() - t).clamp_min(0.0)


def owl_by_hand(n, w):
    """Pool neighbours until nothing increases; clip."""
    order = sorted(range(len(n)), key=lambda i: -float(n[i]))
    blocks = [[float(n[i]) - float(w[k])] for k, i in enumerate(order)]
    k = 0
    while k < len(blocks) - 1:
        if sum(blocks[k]) / len(blocks[k]) < sum(blocks[k + 1]) / len(blocks[k + 1]):
            blocks[k : k + 2] = [blocks[k] + blocks[k + 1]]
            k = max(k - 1, 0)
        else:
            k += 1
    pooled = [max(sum(block) / len(block), 0.0) for block in blocks for _ in block]
    result = torch.zeros_like(n)
    for i, r in zip(order, pooled, strict=True):
        result[i] = r
    return result


def pull_together(a, b, t_a, t_b, shrunk):
    """A − B becomes ``shrunk``; each member takes its part of the motion."""
    motion = a - b - shrunk
    return a - t_a / (t_a + t_b) * motion, b + t_b / (t_a + t_b) * motion


def tie_by_hand(dim):
    """Pairs whose difference shrinks by element (None), by row (1), or as a whole (())."""

    def prox(module, t):
        for a, b in pairs(module):
            difference, both = a - b, t["a"] + t["b"]
            if dim is None:
                shrunk = shrink(difference, both)
            else:
                shrunk = shrink_groups(difference.reshape(len(a), -1), both, dim).view_as(a)
            new_a, new_b = pull_together(a.clone(), b.clone(), t["a"], t["b"], shrunk)
            # What is tied is exactly so.
            new_b = torch.where(shrunk == 0.0, new_a, new_b)
            a.copy_(new_a)
            b.copy_(new_b)

    return prox


def alone_by_hand(change):
    """Parameters by themselves: ``change(weight, t)`` where it is not ``None``."""

    def prox(module, t):
        for name in "ab":
            for w in getattr(module, name).parameters():
                new = change(w.clone(), t[name])
                if new is not None and t[name] > 0.0:
                    w.copy_(new)

    return prox


def elements_by_owl(w, t):
    return w.sign() * owl_by_hand(w.abs().flatten(), t * ramp_weights(w.numel())).view_as(w)


def columns_by_owl(w, t):
    if w.ndim != 2:
        return None
    n = w.norm(dim=0)
    r = owl_by_hand(n, root_of_size(w, 0) * t * ramp_weights(len(n)))
    return w * torch.where(n > 0, r / n, 0.0)


def follow_by_hand(module, t):
    for a, b in pairs(module):
        b.copy_(a + shrink(b - a, t["b"]))


PROXES = {
    "exact_tie": tie_by_hand(None),
    "unit_tie": tie_by_hand(1),
    "layer_tie": tie_by_hand(()),
    "lasso": alone_by_hand(shrink),
    "group_lasso": alone_by_hand(lambda w, t: shrink_groups(w, t, 0) if w.ndim == 2 else None),
    "oscar": alone_by_hand(elements_by_owl),
    "growl": alone_by_hand(columns_by_owl),
    "l2": alone_by_hand(lambda w, t: w / (1.0 + t)),
}
