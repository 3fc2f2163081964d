"""The tensors that a penalty keeps from step to step."""

from __future__ import annotations

import gc

import torch
from torch.distributed.tensor import DTensor

from lit_share import PenaltySteps


def kept_bytes(penalty, ties, module, optimizers=1, **options):
    """Train for two steps, and return the bytes that this process keeps for the penalty."""
    parts = [list(module.parameters())]
    if optimizers == 2:
        parts = [list(part.parameters()) for part in (module.a, module.b)]
    made = [torch.optim.SGD(part, lr=0.1) for part in parts]
    steps = PenaltySteps(penalty, ties, 0.1, **options)
    steps.attach(module, made)
    for _ in range(2):
        module.zero_grad()
        module(torch.ones(1, module.widths[0])).backward()
        for optimizer in made:
            steps.before_step(optimizer)
            optimizer.step()
            steps.after_step(optimizer)
    trained = list(module.parameters())
    of_training = {storage(tensor) for tensor in trained + [w.grad for w in trained]}
    found = {storage(tensor): local(tensor) for tensor in tensors_of(steps)}
    return sum(
        tensor.untyped_storage().nbytes() for key, tensor in found.items() if key not in of_training
    )


def tensors_of(root):
    """All tensors that an object refers to, but not through modules and optimizers."""
    found, waiting, seen = [], [vars(root)], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (dict, list, tuple, set)) or is_ours(item):
            waiting += gc.get_referents(item)
    return found


def is_ours(item):
    """Whether it is an object of the package, which `gc` knows the contents of."""
    return type(item).__module__.startswith("lit_share.")


def local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def storage(tensor):
    return local(tensor.detach()).untyped_storage().data_ptr()
