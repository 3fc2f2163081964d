"""Columns of the matrix that need one process."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch.optim.swa_utils import get_ema_avg_fn

from lit_share import TieError
from lit_share.lab.app._processes import spawned

from ._modules import DEVICE, Lit, Manual, TwoOptimizers, TwoRates, assert_trained, fit, strategy
from ._reference import HARD, Mode

ADAMW = partial(torch.optim.AdamW, weight_decay=0.1)
SINGLE, BF16, FP16 = 1e-6, 2e-2, 2e-3
SKIPPED = (0, 3)


def run(
    row, mode=None, tolerance=1e-9, dtype=torch.float64, kind=Lit, trained=None, more=(), **options
):
    module = kind(mode or Mode(), dtype=dtype, **options.pop("module", {}))
    trainer = fit(row, module, *more, **options)
    assert_trained(row, module, trainer, tolerance, trained or dtype)
    return trainer


def fp16(row, mode):
    """Two of the steps are skipped."""
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", DEVICE, scaler)
    run(row, mode, FP16, torch.float32, module={"infinite": SKIPPED}, plugins=[plugin])
    assert scaler.get_scale() == 2.0**8, "two steps should have been skipped"


def ema(row):
    run(row, Mode(average=0.6), more=[WeightAveraging(avg_fn=get_ema_avg_fn(0.6))])


def lbfgs(row):
    mode = Mode(partial(torch.optim.LBFGS, max_iter=4), (0.3, 0.3))
    if row == HARD:
        run(row, mode)
    else:
        with pytest.raises(
            ValueError, match=r"cannot serve LBFGS, whose line search needs the penalty in the loss"
        ):
            run(row, mode)


def no_closed_form():
    return pytest.raises(
        ValueError, match=r"a\.0\.weight, b\.0\.weight: a l1 penalty .* has no closed-form"
    )


def two_optimizers(row):
    """What is shared is trained with the options of the first one, which is said."""
    if row == "trace_norm":
        with no_closed_form():
            run(row, Mode(rates=(0.2, 0.1)), kind=TwoOptimizers)
        return
    warn = pytest.warns(UserWarning, match="were given to several optimizers, whose options differ")
    with warn if row == HARD else nullcontext():
        run(row, Mode(rates=(0.2, 0.1)), kind=TwoOptimizers)


def two_rates(row):
    refused = pytest.raises(TieError, match=r"more than one parameter group.*unique_parameters")
    with refused if row == HARD else no_closed_form() if row == "trace_norm" else nullcontext():
        run(row, Mode(rates=(0.2, 0.1)), kind=TwoRates)


def flattened(row, kind):
    """Without a GPU Lightning does not get there, so the callback is asked."""
    trainer, callback = SimpleNamespace(strategy=kind.__new__(kind), global_step=0), strategy(row)
    refused = (
        f"{type(callback).__name__} cannot serve {kind.__name__}, which flattens.*use ModelParallel"
    )
    with pytest.raises(ValueError, match=refused):
        callback.setup(trainer, Lit(), "fit")


def compiled(row):
    torch.compiler.reset()
    run(row, module={"compiled": True})


def ddp_spawn(row):
    run(row, strategy=spawned(), devices=2)


HERE = {
    "fp32": partial(run, tolerance=SINGLE, dtype=torch.float32),
    "bf16 mixed": partial(run, tolerance=BF16, dtype=torch.float32, precision="bf16-mixed"),
    "bf16 true": partial(
        run, tolerance=BF16, dtype=torch.float32, trained=torch.bfloat16, precision="bf16-true"
    ),
    "fp16 mixed": partial(fp16, mode=Mode(skipped=SKIPPED)),
    # Without momentum: torch 2.13 leaves a fused one uninitialised if its first step is skipped.
    "fp16 fused": partial(fp16, mode=Mode(ADAMW, (0.05, 0.05), skipped=SKIPPED, fused=True)),
    "accum. 4": partial(run, mode=Mode(accumulate=4, epochs=2)),
    "clip norm": partial(run, mode=Mode(clip=("norm", 0.3))),
    "clip value": partial(run, mode=Mode(clip=("value", 0.1))),
    "SGD mom.": run,
    "Adam": partial(run, mode=Mode(torch.optim.Adam, (0.05, 0.05))),
    "AdamW": partial(run, mode=Mode(ADAMW, (0.05, 0.05))),
    "AdamW fused": partial(run, mode=Mode(ADAMW, (0.05, 0.05), fused=True)),
    "LBFGS": lbfgs,
    "manual": partial(run, kind=Manual),
    "two opt.": two_optimizers,
    "two rates": two_rates,
    "LR sched.": partial(run, mode=Mode(decay=0.8)),
    "comp. parts": compiled,
    "act. ckpt": partial(run, module={"checkpointed": True}),
    "EMA": ema,
    "DDP spawn": ddp_spawn,
    "FSDP1": partial(flattened, kind=FSDPStrategy),
    "DeepSpeed": partial(flattened, kind=DeepSpeedStrategy),
}
