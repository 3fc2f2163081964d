"""Penalties in `transformers.Trainer` have the numbers of Lightning and of a plain loop."""

from __future__ import annotations

import pytest
import torch

import lit_share as ls
from lit_share.huggingface import Regularize

from ._training import Pair, adamw, hugging_face, lightning, plain_loop, sgd, weights

TIES = ls.Ties("a.*", "b.*")
PENALTIES = {
    "soft_tie": {"strength": 0.5},
    "exact_tie": {"strength": 0.2},
    "layer_tie": {"strength": 0.05, "keep_tied": True},
    "l2_sp": {"strength": 0.5},
    "unit_tie": {"strength": 0.05, "every": "epoch"},
    "follow": {"strength": 2.0, "schedule": ls.Ramp(begin=1, duration=2, unit="epochs")},
    "l2": {"strength": 1.0, "schedule": ls.Ramp(duration=5)},
}
MODES = {
    "plain": {},
    "accumulated": {"accumulate": 2},
    "clipped": {"clip": 0.3},
    "AdamW": {"optimizer": adamw},
    "all": {"optimizer": adamw, "accumulate": 2, "clip": 0.1},
}


def check_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_weights_are_those_of_lightning_and_of_a_loop(penalty, mode):
    options, how = PENALTIES[penalty], MODES[mode]
    trainer = hugging_face(Regularize(penalty, TIES, **options), **how)
    module, _ = lightning(ls.Regularize(penalty, TIES, **options), **how)
    check_equal(weights(trainer.model), weights(module))
    check_equal(weights(trainer.model), weights(plain_loop(penalty, **options, **how)))
    half = options | {"strength": options["strength"] / 2}
    other = weights(plain_loop(penalty, **half, **how))
    pairs = [(value, other[name]) for name, value in weights(trainer.model).items()]
    assert not all(torch.allclose(*pair, rtol=1e-4) for pair in pairs)


@pytest.mark.parametrize("mode", ["plain", "all"])
def test_strength_zero_changes_nothing(mode):
    penalized = hugging_face(Regularize("soft_tie", TIES, 0.0), **MODES[mode])
    alone = hugging_face(**MODES[mode])
    for name, value in weights(penalized.model).items():
        assert torch.equal(value, weights(alone.model)[name])


def test_two_penalties_are_clipped_together():
    how = {"clip": 0.2, "accumulate": 2}
    pairs = [
        [
            kind("soft_tie", TIES, 1.0),
            kind("l2", ls.Ties("*.weight"), 0.5),
            kind("lasso", TIES, 0.1),
        ]
        for kind in (Regularize, ls.Regularize)
    ]
    trainer, (module, _) = hugging_face(*pairs[0], **how), lightning(*pairs[1], **how)
    check_equal(weights(trainer.model), weights(module))


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_resumed_training_is_an_uninterrupted_one(penalty, strategy):
    def callback():
        return Regularize(penalty, TIES, **PENALTIES[penalty])

    options = {"save_strategy": strategy, "save_steps": 3, "optimizer": adamw}
    whole = hugging_face(callback(), output_dir="whole", **options)
    steps = 4 if strategy == "epoch" else 6
    # Another folder and a new process would know nothing else.
    resumed = hugging_face(
        callback(), output_dir="other", resume=f"whole/checkpoint-{steps}", **options
    )
    assert resumed.state.global_step == whole.state.global_step
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, weights(whole.model)[name]), name
    assert "lit_share" not in resumed.optimizer.param_groups[0]


def test_a_second_training_begins_anew():
    callback = Regularize("l2_sp", TIES, strength=3.0)
    hugging_face(callback, model=Pair())
    model = Pair()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    before = weights(model)
    hugging_face(callback, model=model, num_train_epochs=1, max_steps=1)
    check_equal(dict(callback.steps.state_dict()["starting_values"]), before)


def test_a_checkpoint_without_the_state():
    hugging_face(save_strategy="epoch")
    resume = "trained/checkpoint-4"
    with pytest.raises(ValueError, match=r"checkpoint of step 4 has no state .* starting values"):
        hugging_face(Regularize("l2_sp", TIES, 0.1), resume=resume)
    with pytest.warns(UserWarning, match="has no state of the penalty .* so it begins now"):
        hugging_face(Regularize("soft_tie", TIES, 0.1), resume=resume)


@pytest.mark.parametrize("penalty", ["soft_tie", "exact_tie"])
def test_scaled_gradients(penalty, monkeypatch):
    """Those of fp16, which the Trainer unscales before it clips and steps."""
    from accelerate import Accelerator

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    prepare = Accelerator.prepare_optimizer

    def with_scaler(self, optimizer, device_placement=None):
        self.scaler, self.native_amp = scaler, True
        self.state._mixed_precision = "fp16"
        return prepare(self, optimizer, device_placement)

    monkeypatch.setattr(Accelerator, "prepare_optimizer", with_scaler)
    how = {"clip": 0.5, "optimizer": adamw}
    trainer = hugging_face(Regularize(penalty, TIES, 0.5), **how)
    assert scaler.get_scale() > 2.0**10
    check_equal(weights(trainer.model), weights(plain_loop(penalty, strength=0.5, **how)))


@pytest.mark.parametrize("strength", [ls.Learned(), ls.Path(0.1, 1.0, steps=3, epochs=1)])
def test_strengths_that_need_validation_batches(strength):
    with pytest.raises(ValueError, match="write a number, or use lit_share"):
        Regularize("soft_tie", TIES, strength)


def test_wrong_patterns_and_arguments():
    with pytest.raises(ls.TieError, match=r"c\.\*"):
        hugging_face(Regularize("soft_tie", ["a.*", "c.*"], 0.1))
    with pytest.raises(ValueError, match="strength"):
        Regularize("soft_tie", TIES, -1.0)


def test_sharded_parameters(monkeypatch):
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    kind = property(lambda _: DistributedType.FSDP)
    monkeypatch.setattr(AcceleratorState, "distributed_type", kind, raising=False)
    model = Pair()
    callback, optimizer = Regularize("soft_tie", TIES, 0.1), sgd(model.parameters())
    optimizer.accelerator_state = AcceleratorState.__new__(AcceleratorState)
    with pytest.raises(ValueError, match=r"Regularize of lit_share\.huggingface cannot serve FSDP"):
        callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)


def test_diverged_weights():
    class Diverges(Pair):
        def forward(self, x, y):
            return {"loss": super().forward(x, y)["loss"] * float("inf")}

    with pytest.raises(ls.penalties.DivergedError, match=r"a\.0\.weight"):
        hugging_face(Regularize("soft_tie", TIES, 0.1), model=Diverges())


def test_frozen_members_stay():
    model = Pair()
    model.b.requires_grad_(False)
    before = weights(model.b)
    hugging_face(
        Regularize("soft_tie", TIES, 5.0),
        model=model,
        optimizer=lambda ps: sgd(p for p in ps if p.requires_grad),
    )
    assert all(torch.equal(p, before[name]) for name, p in model.b.named_parameters())
    distances = [
        sum((p - before[name]).norm() for name, p in pair.a.named_parameters())
        for pair in (Pair(), model)
    ]
    assert distances[1] < distances[0] / 2
