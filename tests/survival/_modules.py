"""What is shared, where it is built, and what training amounts to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lit_share import Share, Ties, share

SAMPLES, STEPS, LR, MOMENTUM = 8, 3, 0.25, 0.5
WIDTH = 12  # units of the hidden layer


def numbers(seed, *shape):
    """Few bits, so that means and units that are equal are so in bfloat16, too."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)) / 8


def data():
    return (
        numbers(0, SAMPLES, 4).double(),
        numbers(1, SAMPLES, 2).double(),
        numbers(2, SAMPLES, 2).double(),
    )


def loader(batch_size=SAMPLES):
    """One batch an epoch; each of two processes gets half of it."""
    return DataLoader(TensorDataset(*data()), batch_size)


# What is shared


def mlp(seed):
    net = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2)).double()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(numbers(10 * seed + i, *parameter.shape))
    return net


def two_models():
    return {"a": mlp(1), "b": mlp(2)}


def two_models_that_became_equal():
    """In the second layer."""
    a, b = mlp(1), mlp(2)
    b[2].load_state_dict(a[2].state_dict())
    return {"a": a, "b": b}


def autoencoder():
    parts = {"enc": nn.Linear(4, WIDTH).double(), "dec": nn.Linear(WIDTH, 4).double()}
    with torch.no_grad():
        for seed, parameter in enumerate([*parts["enc"].parameters(), *parts["dec"].parameters()]):
            parameter.copy_(numbers(30 + seed, *parameter.shape))
    return parts


def loss_of_two(module, x, y, z):
    return F.mse_loss(module.a(x), y) + F.mse_loss(module.b(x), z)


def loss_of_autoencoder(module, x, y, z):
    return F.mse_loss(module.dec(torch.tanh(module.enc(x))), x)


# The same with one tensor for shared parameters: no module, and nothing of lit_share


def trained(start, loss, dtype):
    """Three steps of SGD with momentum."""
    weights = [w.detach().to(dtype).requires_grad_() for w in start]
    moments = [torch.zeros_like(w) for w in weights]
    batch = [t.to(dtype) for t in data()]
    for _ in range(STEPS):
        gradients = torch.autograd.grad(loss(*weights, *batch), weights)
        with torch.no_grad():
            for weight, moment, gradient in zip(weights, moments, gradients, strict=True):
                moment.mul_(MOMENTUM).add_(gradient)
                weight.sub_(LR * moment)
    return [w.detach() for w in weights], float(loss(*weights, *batch).detach())


def net(x, w, b, v, c):
    return F.linear(torch.tanh(F.linear(x, w, b)), v, c)


def reference_of_two(dtype):
    def loss(w, b, v, c, x, y, z):
        return F.mse_loss(net(x, w, b, v, c), y) + F.mse_loss(net(x, w, b, v, c), z)

    start = [(p + q) / 2 for p, q in zip(mlp(1).parameters(), mlp(2).parameters(), strict=True)]
    weights, value = trained(start, loss, dtype)
    return dict(zip(NAMES_OF_TWO, weights * 2, strict=True)), value


def reference_of_equal(dtype):
    def loss(w, b, v, c, own_w, own_b, x, y, z):
        other = net(x, own_w, own_b, v, c)
        return F.mse_loss(net(x, w, b, v, c), y) + F.mse_loss(other, z)

    start = [*mlp(1).parameters(), *mlp(2)[0].parameters()]
    (w, b, v, c, own_w, own_b), value = trained(start, loss, dtype)
    return dict(zip(NAMES_OF_TWO, [w, b, v, c, own_w, own_b, v, c], strict=True)), value


def reference_of_autoencoder(dtype):
    def loss(w, b, c, x, y, z):
        return F.mse_loss(net(x, w, b, w.T, c), x)

    w, b, v, c = (p for part in autoencoder().values() for p in part.parameters())
    (w, b, c), value = trained([(w + v.T) / 2, b, c], loss, dtype)
    return dict(zip(NAMES_OF_AUTOENCODER, [w, b, w.T, c], strict=True)), value


NAMES_OF_TWO = [
    f"{root}.{layer}.{leaf}" for root in "ab" for layer in (0, 2) for leaf in ("weight", "bias")
]
NAMES_OF_AUTOENCODER = ["enc.weight", "enc.bias", "dec.weight", "dec.bias"]


@dataclass(frozen=True)
class Case:
    """A kind of tie.

    Attributes:
        stored: How many numbers there are to train.
        one: The places that hold one Parameter.
    """

    ties: Ties
    where: str
    parts: Callable[[], Mapping[str, nn.Module]]
    loss: Callable[..., Tensor]
    reference: Callable[[torch.dtype], tuple[dict[str, Tensor], float]]
    names: list[str]
    stored: int
    one: list[tuple[str, str]]


HALF = NAMES_OF_TWO[:4], NAMES_OF_TWO[4:]
NUMEL = 4 * WIDTH + WIDTH + 2 * WIDTH + 2
PAIR, EQUAL, TRANSPOSED = "pair", "equal layers", "transposed"
CASES = {
    PAIR: Case(
        Ties("a.*", "b.*"),
        "all",
        two_models,
        loss_of_two,
        reference_of_two,
        NAMES_OF_TWO,
        NUMEL,
        list(zip(*HALF, strict=True)),
    ),
    EQUAL: Case(
        Ties("a.*", "b.*"),
        "equal",
        two_models_that_became_equal,
        loss_of_two,
        reference_of_equal,
        NAMES_OF_TWO,
        NUMEL + 4 * WIDTH + WIDTH,
        list(zip(*HALF, strict=True))[2:],
    ),
    TRANSPOSED: Case(
        Ties("enc.weight", "dec.weight.T"),
        "all",
        autoencoder,
        loss_of_autoencoder,
        reference_of_autoencoder,
        NAMES_OF_AUTOENCODER,
        4 * WIDTH + WIDTH + 4,
        [],
    ),
}


# Where it is built


class Lit(LightningModule):
    """Trains shared parameters; its subclasses build them.

    Args:
        case: A key of `CASES`.
        compiled: Whether the parts are compiled where they are built.
        checkpointed: Whether activations are computed again for the backward pass.
        idle: Whether there is a parameter that nothing uses.
        scrambled: Whether the parts have other weights, as those that a checkpoint is loaded into.
        meta: Whether the parts have no values yet.
    """

    def __init__(
        self, case, compiled=False, checkpointed=False, idle=False, scrambled=False, meta=False
    ):
        super().__init__()
        self.case, self.compiled, self.checkpointed = case, compiled, checkpointed
        self.scrambled, self.meta = scrambled, meta
        if idle:
            self.idle = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def build(self):
        for name, part in CASES[self.case].parts().items():
            if name not in self._modules:
                if self.scrambled:
                    for parameter in part.parameters():
                        nn.init.normal_(parameter)
                part = part.to("meta") if self.meta else part
                setattr(
                    self,
                    name,
                    torch.compile(part, backend="aot_eager", fullgraph=True)
                    if self.compiled
                    else part,
                )

    def forward(self, x, y, z):
        loss = CASES[self.case].loss
        if self.checkpointed and self.training:
            return checkpoint(loss, self, x.requires_grad_(), y, z, use_reentrant=True)
        return loss(self, x, y, z)

    def training_step(self, batch, batch_idx):
        if not torch.compiler.is_compiling():
            assert_one(self)
        return self(*batch)

    def validation_step(self, batch, batch_idx):
        self.log("loss", self(*batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)


class InInit(Lit):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.build()


class InSetup(Lit):
    def setup(self, stage):
        self.build()


class InConfigureModel(Lit):
    def configure_model(self):
        self.build()


class Sharded:
    """Shards its parameters in `configure_model`, as FSDP2 in a Trainer is written."""

    def configure_model(self):
        super().configure_model()
        if not isinstance(self, FSDPModule):
            self.share_before_sharding()
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def share_before_sharding(self):
        """Nothing: the callback has shared already."""


class ShardedInInit(Sharded, InInit):
    pass


class ShardedInSetup(Sharded, InSetup):
    pass


class ShardedInConfigureModel(Sharded, InConfigureModel):
    def share_before_sharding(self):
        share(self, CASES[self.case].ties, where=CASES[self.case].where)


PLACES = {"__init__": InInit, "setup": InSetup, "configure_model": InConfigureModel}
SHARDED = {
    "__init__": ShardedInInit,
    "setup": ShardedInSetup,
    "configure_model": ShardedInConfigureModel,
}


# What must hold


def plain(name):
    return name.replace("_orig_mod.", "")


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def place(module, name):
    """What the module computes with under this name."""
    *path, attribute = name.split(".")
    for part in path:
        module = getattr(module, part)
        module = getattr(module, "_orig_mod", module)
    return getattr(module, attribute)


def value(module, name):
    """The module's computed values, or what it saves where parameters are in pieces."""
    if any(isinstance(p, DTensor) for p in module.parameters()):
        return whole(module.state_dict()[name])
    return place(module, name).detach()


def assert_one(module):
    """What is shared is stored once, under the names that it always had."""
    case = CASES[module.case]
    stored = sum(p.numel() for name, p in module.named_parameters() if "idle" not in name)
    assert stored == case.stored, f"{stored} numbers are stored, not {case.stored}"
    for first, second in case.one:
        assert isinstance(place(module, first), nn.Parameter)
        assert place(module, first) is place(module, second), f"{first!r} and {second!r} are two"
    if module.case == TRANSPOSED:
        assert torch.equal(value(module, "enc.weight"), value(module, "dec.weight").T)
        local = [
            w.to_local() if isinstance(w, DTensor) else w
            for w in (place(module, n) for n in case.names[::2])
        ]
        assert local[0].data_ptr() == local[1].data_ptr(), "the transposed weight is a copy"
    if module.case == EQUAL:
        for first, second in zip(*(half[:2] for half in HALF), strict=True):
            assert place(module, first) is not place(module, second)


def assert_names(module):
    names = [plain(name) for name in module.state_dict() if "idle" not in name]
    assert names == CASES[module.case].names


class Watch(Callback):
    """Looks at the module at all times."""

    def look(self, trainer, pl_module, *_):
        assert_one(pl_module)
        assert_names(pl_module)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(owned) == len(set(owned)) == len(list(pl_module.parameters()))
        self.look(trainer, pl_module)

    on_fit_start = on_train_start = on_train_epoch_start = on_train_batch_end = on_train_end = look
    on_validation_start = on_validation_end = look


def assert_trained(module, dtype=torch.float64, tolerance=1e-10):
    """All weights are those of the reference."""
    case = CASES[module.case]
    expected, _ = case.reference(dtype)
    start = {
        f"{root}.{name}": p
        for root, part in case.parts().items()
        for name, p in part.named_parameters()
    }
    assert_one(module)
    assert_names(module)
    state = {plain(name): whole(tensor) for name, tensor in module.state_dict().items()}
    for name in case.names:
        for got in (value(module, name), state[name]):
            assert got.dtype == dtype
            torch.testing.assert_close(
                {name: got}, {name: expected[name]}, rtol=tolerance, atol=tolerance
            )
        assert (expected[name] - start[name].to(dtype)).abs().max() > max(0.1, 5 * tolerance), (
            f"{name} hardly moves"
        )


def trainer(*callbacks, epochs=STEPS, **options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), max_epochs=epochs, **(quiet | options))


def sharing(case):
    return Share(CASES[case].ties, where=CASES[case].where)


def fit(module, *callbacks, batch_size=SAMPLES, ckpt_path=None, **options):
    """Train with everything that is shared watched, and return the Trainer."""
    made = trainer(*callbacks, Watch(), **options)
    made.fit(module, loader(batch_size), loader(batch_size), ckpt_path=ckpt_path)
    return made
