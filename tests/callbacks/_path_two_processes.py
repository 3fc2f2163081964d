"""Paths in two processes; see `tests/_two_processes.py`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_share.callbacks import Regularize
from lit_share.penalties import Path
from lit_share.ties import Ties

from .._two_processes import run_here
from ._modules import loader, trainer
from .test_path_walk import Validated, losses_by_hand, validation


class Sharded(Validated):
    def configure_model(self):
        for net in (self.a, self.b):
            fully_shard(net, mesh=self.device_mesh["data_parallel"])


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def walk(kind, strategy, penalty, monitor):
    name = f"{kind.__name__} {penalty} {monitor}"
    path = Path(0.1, 10.0, steps=2, epochs=1, first=2, monitor=monitor, dirpath=name)
    walking, module = Regularize(penalty, Ties("a.*", "b.*"), path), kind()
    made = trainer(walking, epochs=4, devices=2, strategy=strategy(), num_sanity_val_steps=0)
    made.fit(module, loader(), validation())
    walked = [asdict(knot) for knot in walking.path.knots]
    everywhere = [None, None]
    distributed.all_gather_object(everywhere, (walked, walking.path.chosen))
    assert everywhere[0] == everywhere[1]
    assert len(walked) == 3
    for number, knot in enumerate(walking.path.knots):
        alone = Validated()
        alone.load_state_dict(torch.load(knot.checkpoint, weights_only=True)["state_dict"])
        losses = losses_by_hand(alone, validation())
        assert knot.score == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert knot.error > 0.0
        if number == walking.path.chosen:
            for key, value in module.state_dict().items():
                torch.testing.assert_close(full(value), alone.state_dict()[key], rtol=0.0, atol=0.0)


def sharding():
    return ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def table():
    cases = {}
    for penalty in ("soft_tie", "exact_tie"):
        for monitor in (None, "val/error"):
            cases[f"DDP {penalty} {monitor}"] = partial(
                walk, Validated, DDPStrategy, penalty, monitor
            )
        cases[f"FSDP2 {penalty}"] = partial(walk, Sharded, sharding, penalty, None)
    return cases


if __name__ == "__main__":
    run_here(table(), sys.argv[1])
