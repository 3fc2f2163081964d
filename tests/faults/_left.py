"""Hooks, weights, processes, threads, files and variables before and after a fault."""

from __future__ import annotations

import fnmatch
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

# What Lightning leaves when it seeds, and scikit-learn when it is imported.
VARIABLES = {"PL_GLOBAL_SEED", "PL_SEED_WORKERS", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
# Threads that stay for the rest of a process: of progress bars and W&B.
THREADS = ("tqdm", "asyncio", "wandb")


class Watch:
    """Optimizers, trainers and steps of a while."""

    def __init__(self) -> None:
        self.optimizers: list[Optimizer] = []
        self.trainers: list[Trainer] = []
        self.steps = 0

    def modules(self) -> Iterator[nn.Module]:
        for trainer in self.trainers:
            if trainer.lightning_module is not None:
                yield trainer.lightning_module


@contextmanager
def watching() -> Iterator[Watch]:
    watch = Watch()

    def count(*_: Any) -> None:
        watch.steps += 1

    with pytest.MonkeyPatch.context() as patch:
        for kind, made in ((Optimizer, watch.optimizers), (Trainer, watch.trainers)):
            patch.setattr(kind, "__init__", _noting(kind.__init__, made))
        handle = register_optimizer_step_post_hook(count)
        try:
            yield watch
        finally:
            handle.remove()


def _noting(init: Any, made: list[Any]) -> Any:
    @wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        init(self, *args, **kwargs)

    return wrapped


def hooks(module: nn.Module) -> dict[str, int]:
    """How many hooks of each kind a module and its parameters have."""
    found: dict[str, int] = {}
    for name, part in module.named_modules():
        for kind, held in vars(part).items():
            if "hooks" in kind and isinstance(held, dict) and held:
                found[f"{name}.{kind}"] = len(held)
    for name, parameter in module.named_parameters():
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            if getattr(parameter, kind, None):
                found[f"{name}.{kind}"] = len(getattr(parameter, kind))
    return found


def hooks_of_optimizer(optimizer: Optimizer) -> dict[str, int]:
    return {kind: len(held) for kind, held in vars(optimizer).items() if "hooks" in kind and held}


def weights(module: nn.Module) -> dict[str, tuple[int, torch.Tensor]]:
    """The parameters, which ones they are and their bits."""
    named = module.named_parameters(remove_duplicate=False)
    return {name: (id(p), p.detach().clone().view(-1).view(torch.uint8)) for name, p in named}


def assert_same_weights(found: dict[str, Any], before: dict[str, Any]) -> None:
    assert found.keys() == before.keys()
    for name, (which, bits) in found.items():
        assert which == before[name][0], f"{name} is another parameter"
        assert torch.equal(bits, before[name][1]), f"{name} has changed"


def processes(session: int | None = None) -> set[int]:
    """The processes of a session, or below this process, that have not ended."""
    parents: dict[int, int] = {}
    members: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, _, own_session, *_ = (
                (folder / "stat").read_text().rpartition(")")[2].split()
            )
        except OSError:  # it has ended meanwhile
            continue
        if state not in "ZX":
            parents[int(folder.name)] = int(parent)
            members |= {int(folder.name)} if int(own_session) == session else set()
    if session is not None:
        return members
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {os.getpid()}


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(THREADS)}


def variables() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in VARIABLES and name != "PYTEST_CURRENT_TEST"
    }


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_files(
    found: dict[str, bytes], before: dict[str, bytes], leaves: tuple[str, ...]
) -> None:
    """What was there is as it was, and new is only what may be left."""
    assert {name: found.get(name) for name in before} == before
    new = [
        n
        for n in found.keys() - before.keys()
        if not any(fnmatch.fnmatch(n, pattern) for pattern in leaves)
    ]
    assert not new, f"left: {new}"
