"""What needs two processes; see `tests/_two_processes.py`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.distributed.tensor import DTensor

from lit_share import TieError

from .._two_processes import run_here
from . import _reference as reference
from . import _sharded_members
from ._modules import (
    Lit,
    Sharded,
    ShardedEach,
    ShardedLooks,
    ShardedMixed,
    ShardedTwoOptimizers,
    ShardedValidated,
    TwoOptimizers,
    assert_trained,
    distance,
    fit,
)
from ._reference import HARD, STRATEGIES, Mode

BF16 = 2e-2
# Rows that can keep zeros, and a mode in which some would come back.
KEEPING = ("growl", "oscar", "group_lasso")
KEEP = Mode(torch.optim.Adam, (0.1, 0.1), epochs=2, keep_zeros=True)


def ddp(row, module=None, mode=None, **options):
    made = Lit(mode or Mode(), **(module or {}))
    assert_trained(row, made, fit(row, made, devices=2, strategy=DDPStrategy(**options)))


def sharding():
    return ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def refusal(row, kind, mode):
    """What is refused, and how: it would not be right, or it has no closed form."""
    if row == HARD and kind is ShardedEach:
        return pytest.raises(TieError, match=r"'a\.0\.weight' is already sharded")
    if row == "value_tie" and not mode.keep_zeros:
        return pytest.raises(TieError, match="which fully_shard has sharded: use DDP")
    if row == "trace_norm" and mode.rates[0] != mode.rates[1]:
        return pytest.raises(
            ValueError, match=r"a\.0\.weight, b\.0\.weight: a l1 penalty .* has no closed-form"
        )
    if mode.keep_zeros and row not in (HARD, *KEEPING):
        return pytest.raises(ValueError, match="keep_zeros=True is for")
    return None


def assert_some_would_come_back(row, mode):
    """Zeros that are kept, or else there is nothing to be tested."""
    if mode.keep_zeros and row in KEEPING:
        (kept, _), (others, _) = (
            reference.train(row, mode),
            reference.train(row, replace(mode, keep_zeros=False)),
        )
        assert distance(kept, others) > 1e-3


def fsdp2(
    row,
    kind=Sharded,
    mode=None,
    monitor=False,
    sanity=0,
    tolerance=1e-9,
    trained=None,
    precision=None,
    **module,
):
    module = kind(mode or Mode(), **module)
    options = {
        "devices": 2,
        "strategy": sharding(),
        "num_sanity_val_steps": sanity,
        "precision": precision,
    }
    train = partial(fit, row, module, monitor=monitor, **options)
    refused = refusal(row, kind, module.mode)
    if refused is not None:
        with refused:
            train()
        return
    two = row == HARD and isinstance(module, TwoOptimizers)
    warn = pytest.warns(UserWarning, match="were given to several optimizers, whose options differ")
    with warn if two else nullcontext():
        trainer = train()
    assert_some_would_come_back(row, module.mode)
    # Or else there is nothing to be tested.
    owned = [
        p
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert all(isinstance(p, DTensor) for p in owned)
    assert any(p.to_local().numel() == 0 for p in owned) == (
        module.outputs == 1 and distributed.get_rank() == 1
    )
    assert_trained(row, module, trainer, tolerance, trained or module.dtype_of_data)


def fsdp2_resume(row, mode):
    """Checkpoints of one file."""
    refused = refusal(row, Sharded, mode)
    if refused is not None:
        with refused:
            fit(row, Sharded(mode), monitor=False, devices=2, strategy=sharding())
        return
    assert_some_would_come_back(row, mode)
    first, second = Sharded(mode), Sharded(mode)
    options = {"monitor": False, "devices": 2}
    path = f"{row} {mode.keep_zeros}.ckpt"
    fit(row, first, max_epochs=1, strategy=sharding(), **options).save_checkpoint(path)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.fill_(7.0)
    trainer = fit(row, second, ckpt_path=path, strategy=sharding(), **options)
    assert_trained(row, second, trainer)


# Columns of the matrix.
THERE = {
    "DDP": ddp,
    "DDP unused": partial(ddp, module={"idle": True}, find_unused_parameters=True),
    "DDP static": partial(ddp, module={"checkpointed": True}, static_graph=True),
    "DDP view": partial(ddp, gradient_as_bucket_view=True),
    "DDP accum.": partial(ddp, mode=Mode(accumulate=4, epochs=2)),
    "FSDP2": fsdp2,
    "FSDP2 each": partial(fsdp2, kind=ShardedEach),
    "FSDP2 looks": partial(fsdp2, kind=ShardedLooks),
    "FSDP2 valid.": partial(fsdp2, kind=ShardedValidated, mode=Mode(epochs=2)),
    "FSDP2 sanity": partial(fsdp2, kind=ShardedValidated, mode=Mode(epochs=2), sanity=1),
    "FSDP2 accum.": partial(fsdp2, mode=Mode(accumulate=4, epochs=2)),
    "FSDP2 clip norm": partial(fsdp2, mode=Mode(clip=("norm", 0.3))),
    "FSDP2 fused": partial(
        fsdp2, mode=Mode(partial(torch.optim.AdamW, weight_decay=0.1), (0.05, 0.05), fused=True)
    ),
    "FSDP2 two opt.": partial(
        fsdp2, kind=ShardedTwoOptimizers, mode=Mode(rates=(0.2, 0.1), epochs=3), sanity=1
    ),
    "FSDP2 resume": partial(fsdp2_resume, mode=Mode(epochs=2)),
    "FSDP2 zeros": partial(fsdp2, mode=KEEP),
    "FSDP2 zeros res.": partial(fsdp2_resume, mode=KEEP),
    "FSDP2 bf16 mixed": partial(fsdp2, kind=ShardedMixed, tolerance=BF16, dtype=torch.float32),
    "FSDP2 bf16 true": partial(
        fsdp2, tolerance=BF16, dtype=torch.float32, trained=torch.bfloat16, precision="bf16-true"
    ),
    "FSDP2 empty": partial(fsdp2, outputs=1),
    "FSDP2 logs": partial(fsdp2, monitor=True),
    "FSDP2 valid. logs": partial(fsdp2, kind=ShardedValidated, mode=Mode(epochs=2), monitor=True),
    "FSDP2 empty logs": partial(fsdp2, outputs=1, monitor=True),
}


def cells():
    yield from product(THERE, STRATEGIES)


def table():
    """All that is run, by its name."""
    matrix = {f"{column} | {row}": partial(THERE[column], row) for column, row in cells()}
    checks = _sharded_members.cells()
    return matrix | {
        f"{what} | {name}": partial(_sharded_members.CHECKS[what][0], name) for what, name in checks
    }


if __name__ == "__main__":
    run_here(table(), sys.argv[1])
