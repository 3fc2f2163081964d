"""The same training in a Trainer, with callbacks of this package; and what must hold after it."""

from __future__ import annotations

import math
import os
from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lit_share import Penalty, Regularize, Share, SharingMonitor, Ties

from . import _reference as reference
from ._reference import HARD, PLAIN, SAMPLES, STRATEGIES, WIDTH

# Of the matrix; `python -m benchmarks.gpu` says cuda.
DEVICE = os.environ.get("LIT_SHARE_DEVICE", "cpu")

PAIR, MATRICES = Ties("a.*", "b.*"), Ties("*.weight")
PENALTIES = {
    "soft_tie": ("soft_tie", PAIR),
    "exact_tie": ("exact_tie", PAIR),
    "unit_tie": ("unit_tie", PAIR),
    "layer_tie": ("layer_tie", PAIR),
    "cluster_tie": ("cluster_tie", PAIR),
    "robust_tie": ("robust_tie", PAIR),
    "value_tie": ("value_tie", Ties("*.weight[...]")),
    "growl": (Penalty("owl", "input", "zero", reference.ramp), MATRICES),
    "oscar": (Penalty("owl", "element", "zero", reference.ramp), MATRICES),
    "group_lasso": ("group_lasso", MATRICES),
    "trace_norm": ("trace_norm", PAIR),
    "l2_sp": ("l2_sp", Ties("*")),
    "ewc": ("ewc", Ties("*")),
}


def strategy(row, keep_zeros=False, outputs=2):
    if row == HARD:
        return Share(PAIR)
    options = {"keep_zeros": keep_zeros}
    if row == "ewc":
        # Of a parameter that nothing uses, too, where there is one.
        options["precision"] = reference.precision(outputs) | {"idle": torch.ones(3)}
    return Regularize(*PENALTIES[row], STRATEGIES[row].strength, **options)


class Lit(LightningModule):
    """Trains the two models of the reference.

    Args:
        mode: What happens in steps.
        outputs: Of each model; 1 makes members of one row.
        dtype: Of weights and data.
        compiled: Whether the models are compiled.
        checkpointed: Whether activations are computed again for the backward pass.
        idle: Whether there is a parameter that nothing uses.
        infinite: Batches whose loss is infinite.
    """

    def __init__(
        self,
        mode=PLAIN,
        outputs=2,
        dtype=torch.float64,
        compiled=False,
        checkpointed=False,
        idle=False,
        infinite=(),
    ):
        super().__init__()
        self.mode, self.outputs, self.dtype_of_data = mode, outputs, dtype
        self.checkpointed, self.infinite = checkpointed, infinite
        start = reference.start(outputs)
        for root in "ab":
            model = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, outputs))
            model.load_state_dict({name[2:]: w for name, w in start.items() if name[0] == root})
            model = model.to(dtype)
            setattr(
                self,
                root,
                torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model,
            )
        if idle:
            self.idle = nn.Parameter(torch.zeros(3, dtype=dtype))

    def forward(self, x, y, z):
        return nn.functional.mse_loss(self.a(x), y) + nn.functional.mse_loss(self.b(x), z)

    def training_step(self, batch, batch_idx):
        loss = (
            checkpoint(self.forward, *batch, use_reentrant=False)
            if self.checkpointed
            else self(*batch)
        )
        return loss * float("inf") if batch_idx in self.infinite else loss

    def train_dataloader(self):
        """The same samples in each step, however many processes there are."""
        world = self.trainer.world_size
        dataset = TensorDataset(*(t.to(self.dtype_of_data) for t in reference.data(self.outputs)))
        # Lightning's own sampler would shuffle.
        sampler = DistributedSampler(dataset, world, self.trainer.global_rank, shuffle=False)
        return DataLoader(dataset, SAMPLES // world, sampler=sampler)

    def configure_optimizers(self):
        options = {"fused": True} if self.mode.fused else {}
        optimizer = self.mode.optimizer(list(self.parameters()), lr=self.mode.rates[0], **options)
        if self.mode.decay == 1.0:
            return optimizer
        return [optimizer], [
            {"scheduler": ExponentialLR(optimizer, self.mode.decay), "interval": "step"}
        ]


class TwoRates(Lit):
    """One optimizer with a group for each model."""

    def configure_optimizers(self):
        parts = [self.a, self.b]
        return self.mode.optimizer(
            [
                {"params": list(p.parameters()), "lr": lr}
                for p, lr in zip(parts, self.mode.rates, strict=True)
            ],
            lr=1.0,
        )


class Manual(Lit):
    """Manual optimisation, with one optimizer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(self(*batch))
        for optimizer in optimizers:
            optimizer.step()


class TwoOptimizers(Manual):
    """Manual optimisation, with an optimizer for each model."""

    def configure_optimizers(self):
        rates = zip((self.a, self.b), self.mode.rates, strict=True)
        return [self.mode.optimizer(list(part.parameters()), lr=lr) for part, lr in rates]


class Sharded(Lit):
    """FSDP2 as written for a Trainer; optionally each model is a separate FSDP group."""

    each = False
    policy = MixedPrecisionPolicy()

    def configure_model(self):
        if not any(isinstance(p, DTensor) for p in self.parameters()):
            options = {"mesh": self.device_mesh["data_parallel"], "mp_policy": self.policy}
            if self.each:
                fully_shard(self.a, **options)
                fully_shard(self.b, **options)
            fully_shard(self, **options)


class ShardedEach(Sharded):
    each = True


class ShardedMixed(Sharded):
    """Computes in half precision."""

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


class ShardedValidated(Sharded):
    """A forward pass without gradients leaves the parameters whole."""

    def validation_step(self, batch, batch_idx):
        self.log("loss", self(*batch), sync_dist=True)

    val_dataloader = Lit.train_dataloader


class ShardedLooks(Sharded, Manual):
    """Gradient-free forward passes before each step, after which full parameters are outdated."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self(*batch))
        with torch.no_grad():
            self(*batch)
        # Or else there is nothing to be tested.
        assert not any(isinstance(p, DTensor) for p in self.parameters())
        optimizer.step()
        self.reshard()


class ShardedTwoOptimizers(ShardedValidated, TwoOptimizers):
    pass


def fit(row, module, *more, monitor=True, ckpt_path=None, **options):
    """Train, and return the Trainer."""
    quiet = {
        "accelerator": DEVICE,
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "max_epochs": module.mode.epochs,
        "accumulate_grad_batches": module.mode.accumulate,
    }
    if module.mode.clip is not None:
        how, most = module.mode.clip
        quiet |= {"gradient_clip_algorithm": how, "gradient_clip_val": most}
    watch = [SharingMonitor(PAIR)] if monitor else []
    trainer = Trainer(
        callbacks=[strategy(row, module.mode.keep_zeros, module.outputs), *watch, *more],
        **(quiet | options),
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def weights_of(module):
    state = {
        name.replace("_orig_mod.", ""): w
        for name, w in module.state_dict().items()
        if name != "idle"
    }
    return {
        name: (w.full_tensor() if isinstance(w, DTensor) else w.detach()).cpu()
        for name, w in state.items()
    }


def distance(weights, others):
    """The largest difference, relative to numbers above 1 in size."""
    assert weights.keys() == others.keys()
    return max(
        ((w.double() - others[name]).abs() / others[name].abs().clamp_min(1.0)).max().item()
        for name, w in weights.items()
    )


def monitored(trainer):
    return any(isinstance(callback, SharingMonitor) for callback in trainer.callbacks)


def assert_trained(row, module, trainer, tolerance=1e-9, dtype=torch.float64):
    """Weights and the logged penalty are the reference's, not those of another strength."""
    mode = module.mode
    train = partial(reference.train, row, mode, module.outputs)
    expected, penalty = train()
    weights, logged = weights_of(module), trainer.callback_metrics
    assert all(w.dtype == dtype for w in weights.values())
    away = distance(weights, expected)
    assert away <= tolerance, f"weights are {away:.2g} away from the reference"
    for factor in (0.5, 2.0) if row != HARD else ():
        other, _ = train(factor=factor)
        assert distance(other, expected) > 3 * tolerance, (
            f"{factor} times the strength would not be noticed"
        )
    exact = tolerance <= 1e-6 and mode.average is None
    if row == HARD:
        assert all(torch.equal(a, b) for a, b in reference.pairs(weights))
    elif exact and STRATEGIES[row].prox is not None:
        for (a, b), (c, d) in zip(reference.pairs(weights), reference.pairs(expected), strict=True):
            assert torch.equal(a == b, c == d), "other numbers are tied"
        for name, w in weights.items():
            assert torch.equal(w == 0.0, expected[name] == 0.0), f"other numbers of {name} are zero"
    if not monitored(trainer):
        return
    if row == HARD:
        assert "sharing/penalty" not in logged
        assert logged["sharing/tied"] == 1.0
        return
    got = float(logged["sharing/penalty"])
    # Lightning logs in float32.
    assert math.isclose(got, penalty, rel_tol=max(1e-6, 10 * tolerance)), (
        f"{got} is logged, not {penalty}"
    )
    if exact and STRATEGIES[row].prox is not None:
        equal = sum(int((a == b).sum()) for a, b in reference.pairs(expected))
        fraction = equal / sum(a.numel() for a, _ in reference.pairs(expected))
        assert math.isclose(logged["sharing/tied"], fraction, rel_tol=1e-6), (
            "the tied fraction is logged wrongly"
        )
    if mode.average is None:
        own = reference.penalty(row, weights)
        assert math.isclose(got, own, rel_tol=1e-6), (
            f"{got} is logged, but that of the weights is {own}"
        )
