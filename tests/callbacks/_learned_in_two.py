"""Learned strengths in two processes; see `tests/_two_processes.py`."""

from __future__ import annotations

import math
import sys
from functools import partial

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lit_share import Learned, Regularize, Ties
from lit_share.penalties import PenaltySteps

from .._two_processes import run_here
from ._modules import Two, loader, trainer

# Other numbers than the defaults, which experiments chose.
Gentle = partial(Learned, start=0.1, every=2, rate=0.2)
PAIR = Ties("a.*", "b.*")


class Validated(Two):
    def validation_step(self, batch, batch_idx):
        value = sum(self.losses(batch))
        self.log("val/loss", value, sync_dist=True)
        return value


class Sharded(Validated):
    def configure_model(self):
        if not isinstance(next(self.parameters()), DTensor):
            for net in (self.a, self.b):
                fully_shard(net, mesh=self.device_mesh["data_parallel"])


def held_out(batch_size=20):
    rng = torch.Generator().manual_seed(3)
    sizes = (4, 2, 2)
    tensors = [torch.randn(40, n, generator=rng, dtype=torch.float64) for n in sizes]
    return DataLoader(TensorDataset(*tensors), batch_size)


def learned_in(recipe):
    """The strengths after two epochs of a plain loop, in which validation data are one batch."""
    module, steps = Validated(), PenaltySteps(recipe, PAIR, Gentle())
    optimizer = module.configure_optimizers()
    steps.attach(module, optimizer)
    (batch,) = held_out(40)
    for _ in range(2):
        for number, own in enumerate(loader(), 1):
            optimizer.zero_grad()
            sum(module.losses(own)).backward()
            steps.before_step()
            optimizer.step()
            steps.after_step()
            if number % 2 == 0:
                parameters = [*module.parameters()]
                gradients = torch.autograd.grad(sum(module.losses(batch)), parameters)
                pairs = zip(parameters, gradients, strict=True)
                steps.learn({id(p): g for p, g in pairs})
        steps.end_epoch()
    return steps.learned.by_name(steps.found)


def half_of(data, size):
    rank, world = distributed.get_rank(), distributed.get_world_size()
    order = DistributedSampler(data, world, rank, shuffle=False)
    return DataLoader(data, size, sampler=order)


def same_as_one(recipe, module_type, strategy):
    """Each process has half of each batch."""
    callback, module = Regularize(recipe, PAIR, Gentle()), module_type()
    # Lightning's own sampler would shuffle.
    made = trainer(callback, strategy=strategy(), devices=2, use_distributed_sampler=False)
    made.fit(module, half_of(loader().dataset, 2), half_of(held_out().dataset, 20))
    found = {name: course[-1] for name, course in callback.steps.learned.course.items()}
    for name, strength in learned_in(recipe).items():
        assert math.isclose(found[name], strength, rel_tol=1e-4), (name, found, strength)


class Skips(Sharded):
    """Some ranks return no loss after some steps."""

    def __init__(self, ranks):
        super().__init__()
        self.ranks = ranks

    def validation_step(self, batch, batch_idx):
        value = sum(self.losses(batch))
        if self.global_step in (4, 6) and self.global_rank in self.ranks:
            return None
        return value


def skipped_by_all():
    """A batch that one rank skips is skipped by both."""
    found = []
    for ranks in ((1,), (0, 1), ()):
        callback = Regularize("soft_tie", PAIR, Gentle())
        made = trainer(callback, strategy=FSDP2(), devices=2, use_distributed_sampler=False)
        made.fit(Skips(ranks), half_of(loader().dataset, 2), half_of(held_out().dataset, 20))
        found.append(callback.steps.learned.course)
    one, both, none = found
    assert one == both != none


FSDP2 = partial(ModelParallelStrategy, data_parallel_size=2, tensor_parallel_size=1)
TABLE = {
    f"{recipe} {name}": partial(same_as_one, recipe, *how)
    for recipe in ("soft_tie", "exact_tie", "layer_tie")
    for name, how in (("DDP", (Validated, DDPStrategy)), ("FSDP2", (Sharded, FSDP2)))
}
TABLE["a batch without a loss on one rank, FSDP2"] = skipped_by_all

if __name__ == "__main__":
    run_here(TABLE, sys.argv[1])
