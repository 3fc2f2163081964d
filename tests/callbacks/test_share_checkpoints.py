"""Checkpoints of tied and untied modules, loaded into both, work or say what to do."""

from __future__ import annotations

import warnings

import pytest
import torch

from lit_share.callbacks import Share
from lit_share.paired import Paired
from lit_share.sharing import share
from lit_share.ties import TieError, Ties

from ._modules import Two, assert_same, fit, loader, mlp, trainer, weights

PAIR = Ties("a.*", "b.*")
ENTRIES = ["fit", "validate", "test"]
both = pytest.mark.parametrize("strict", [True, False])


class Evaluated(Two):
    def __init__(self, strict=True):
        super().__init__(optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=0.05))
        self.strict_loading = strict

    def val_dataloader(self):
        return loader(batches=2)

    def validation_step(self, batch, batch_idx):
        self.log("loss", sum(self.losses(batch)))

    test_step = validation_step


class Equal(Evaluated):
    """Untied, but of the same values."""

    def __init__(self, strict=True):
        super().__init__(strict)
        self.b.load_state_dict(self.a.state_dict())

    def losses(self, batch):
        x, y, _ = batch
        return torch.nn.functional.mse_loss(self.a(x), y), torch.nn.functional.mse_loss(
            self.b(x), y
        )


@pytest.fixture
def checkpoints(tmp_path_factory):
    """Of two epochs: tied, untied with different values, untied with equal values."""
    folder = tmp_path_factory.getbasetemp() / "tied_and_untied"
    if folder.exists():
        return folder
    for name, module, callbacks in (
        ("tied", Evaluated(), [Share(PAIR)]),
        ("different", Evaluated(), []),
        ("equal", Equal(), []),
    ):
        fit(module, *callbacks).save_checkpoint(folder / f"{name}.ckpt")
    return folder


def load(entry, module, checkpoint, *callbacks):
    """Enter a Trainer with a checkpoint, which it opens without pickle."""
    made = trainer(*callbacks, epochs=4)
    if entry == "fit":
        made.fit(module, loader(), ckpt_path=checkpoint, weights_only=True)
    else:
        getattr(made, entry)(
            module, loader(), ckpt_path=checkpoint, weights_only=True, verbose=False
        )
    return made


def values(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@both
@pytest.mark.parametrize("entry", ENTRIES)
def test_tied_to_tied(checkpoints, entry, strict):
    module = Evaluated(strict)
    load(entry, module, checkpoints / "tied.ckpt", Share(PAIR))
    if entry == "fit":
        whole = Evaluated()
        fit(whole, Share(PAIR), epochs=4)
        assert_same(weights(module), weights(whole))
    else:
        assert_same(module.state_dict(), values(checkpoints / "tied.ckpt"))
    assert module.a[0].weight is module.b[0].weight


@both
@pytest.mark.parametrize("entry", ["validate", "test"])
def test_tied_to_untied(checkpoints, entry, strict):
    module = Evaluated(strict)
    with pytest.warns(UserWarning, match="Please add the following callbacks.*Share"):
        load(entry, module, checkpoints / "tied.ckpt")
    assert_same(module.state_dict(), values(checkpoints / "tied.ckpt"))
    assert module.a[0].weight is not module.b[0].weight


def test_tied_to_untied_cannot_be_resumed(checkpoints):
    """No code of ours is there to say why, but Lightning says what to do: to add the callback."""
    module = Evaluated()
    with (
        pytest.warns(UserWarning, match="Please add the following callbacks.*Share"),
        pytest.raises(
            ValueError, match="parameter group that doesn't match the size of optimizer's group"
        ),
    ):
        load("fit", module, checkpoints / "tied.ckpt")
    assert module.steps_taken == 0


@both
@pytest.mark.parametrize("entry", ENTRIES)
def test_different_values_to_tied(checkpoints, entry, strict):
    module = Evaluated(strict)
    before = weights(module)
    with pytest.raises(TieError, match=r"'a\.0\.weight' and 'b\.0\.weight' are shared, but differ"):
        load(entry, module, checkpoints / "different.ckpt", Share(PAIR, init="first"))
    assert_same(
        {k: v for k, v in weights(module).items() if k[0] == "a"},
        {k: v for k, v in before.items() if k[0] == "a"},
    )


@both
@pytest.mark.parametrize("entry", ["validate", "test"])
def test_equal_values_to_tied(checkpoints, entry, strict):
    module = Evaluated(strict)
    load(entry, module, checkpoints / "equal.ckpt", Share(PAIR))
    assert_same(module.state_dict(), values(checkpoints / "equal.ckpt"))


@both
def test_equal_values_to_tied_cannot_be_resumed(checkpoints, strict):
    module = Evaluated(strict)
    with pytest.raises(
        TieError,
        match=r"checkpoint's optimizer state does not fit .* start a new training from its weights",
    ):
        load("fit", module, checkpoints / "equal.ckpt", Share(PAIR))
    assert module.steps_taken == 0


def test_the_callbacks_of_a_checkpoint_need_no_pickle(checkpoints):
    states = torch.load(checkpoints / "tied.ckpt", weights_only=True)["callbacks"]
    (state,) = states.values()
    assert {"names": ["a.0.weight", "b.0.weight"]} in state["shared"]


@pytest.mark.parametrize("source", ["tied", "different", "equal"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("assign", [True, False])
@both
def test_load_state_dict(checkpoints, source, tied, assign, strict):
    """The same without a Trainer, also with `assign=True`."""
    module, state = Two(), values(checkpoints / f"{source}.ckpt")
    if tied:
        share(module, PAIR)
    if tied and source == "different":
        with pytest.raises(TieError, match="differ in the state dict"):
            module.load_state_dict(state, strict=strict, assign=assign)
        return
    module.load_state_dict(state, strict=strict, assign=assign)
    assert_same(module.state_dict(), state)
    assert (module.a[0].weight is module.b[0].weight) == tied


# Children of a pair


class Child(Two):
    def __init__(self, seed=0):
        super().__init__(optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=0.05))
        self.save_hyperparameters()
        self.a = mlp(seed)
        del self.b

    def losses(self, batch):
        return (torch.nn.functional.mse_loss(self.a(batch[0]), batch[1]),)


@pytest.mark.parametrize("ties", [Ties("x.*", "y.*"), Ties("x.a.0.*", "y.a.0.*")])
def test_a_child_of_a_shared_pair_is_exported(ties):
    """Nothing of the pair is left in it: it opens as any checkpoint does, and trains alone."""
    pair = Paired(x=Child(0), y=Child(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*mutable|.*has already been")
        made = fit(pair, Share(ties), data={"x": loader(), "y": loader()})
    made.save_checkpoint("pair.ckpt")
    pair.export_child("y", "now.ckpt")
    pair.export_child("y", "then.ckpt", checkpoint="pair.ckpt")
    for path in ("now.ckpt", "then.ckpt"):
        child = Child.load_from_checkpoint(path)
        assert child.hparams["seed"] == 1
        assert_same(child.state_dict(), pair.y.state_dict())
        fit(child, epochs=1)
