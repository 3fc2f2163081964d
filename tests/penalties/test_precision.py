"""The precision of members in training loops."""

from __future__ import annotations

import copy
import pickle
import re
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.testing import assert_close

from lit_share import (
    PenaltySteps,
    Ties,
    add_penalty_gradient,
    apply_prox,
    second_moments,
    share,
    starting_values,
)

PAIR = Ties("a.*", "b.*")
STRENGTH, LR = 0.7, 0.1


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})


def weights_of(module, seed=5):
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=rng) + 0.1 for n, p in module.named_parameters()}


def loss(module):
    return sum((p - i).square().sum() for i, p in enumerate(module.parameters(), 1))


def train(module, steps, optimizer, count, begin=0):
    for number in range(begin, begin + count):
        optimizer.zero_grad()
        ((number + 1) * loss(module)).backward()
        steps.before_step()
        optimizer.step()
        steps.after_step()


def by_hand(module, optimizer, count, penalty):
    """With the penalty in the loss; ``penalty`` gets the number of the step."""
    for number in range(count):
        optimizer.zero_grad()
        ((number + 1) * loss(module) + STRENGTH * penalty(number)).backward()
        optimizer.step()


def ewc_of(module, weights):
    start = {name: p.detach().clone() for name, p in module.named_parameters()}

    def penalty(_=0):
        terms = ((n, p) for n, p in module.named_parameters())
        return 0.5 * sum((weights[n] * (p - start[n]).square()).sum() for n, p in terms)

    return penalty


def merge_of(module, weights):
    """Of a pair: ½ · 2fg / (f + g) · (a − b)²."""

    def penalty(number):
        own = weights(number) if callable(weights) else weights
        total = 0.0
        for name, a in module["a"].named_parameters():
            f, g = own[f"a.{name}"], own[f"b.{name}"]
            pull = torch.where(f + g > 0, 2 * f * g / (f + g).clamp_min(1e-30), 0.0)
            total = total + 0.5 * (pull * (a - module["b"].get_parameter(name)).square()).sum()
        return total

    return penalty


def assert_same(module, other, **tolerance):
    assert_close(dict(module.named_parameters()), dict(other.named_parameters()), **tolerance)


class TestMappings:
    @pytest.mark.parametrize("make", [partial(SGD, momentum=0.5), Adam])
    @pytest.mark.parametrize(("recipe", "formula"), [("ewc", ewc_of), ("soft_tie", merge_of)])
    def test_is_the_penalty_in_the_loss(self, recipe, formula, make, pair):
        weights, other = weights_of(pair), copy.deepcopy(pair)
        steps = PenaltySteps(recipe, PAIR, STRENGTH, precision=weights)
        optimizer = make(pair.parameters(), lr=LR)
        steps.attach(pair, optimizer)
        penalty = formula(other, weights)
        train(pair, steps, optimizer, 4)
        by_hand(other, make(other.parameters(), lr=LR), 4, penalty)
        assert_same(pair, other)
        assert steps.value() == pytest.approx(STRENGTH * penalty(4).item(), rel=1e-5)
        steps.detach()
        assert steps.value(pair) == pytest.approx(STRENGTH * penalty(4).item(), rel=1e-5)

    def test_it_is_not_zero(self, pair):
        """Elements of large precision stay, and others are left to the loss."""
        before = pair["a"].weight.detach().clone()
        weights = {n: torch.zeros_like(p) for n, p in pair.named_parameters()}
        weights["a.weight"][0] = 1e4
        optimizer = SGD(pair.parameters(), lr=1e-4)
        steps = PenaltySteps("ewc", ["a.weight"], 1.0, precision=weights)
        steps.attach(pair, optimizer)
        train(pair, steps, optimizer, 50)
        moved = (pair["a"].weight - before).abs()
        assert moved[0].max() < 0.02
        assert moved[1].min() > 0.15

    def test_as_a_proximal_step(self, pair):
        weights, other = weights_of(pair), copy.deepcopy(pair)
        optimizer = SGD(pair.parameters(), lr=LR)
        steps = PenaltySteps("ewc", PAIR, STRENGTH, apply="prox", precision=weights)
        steps.attach(pair, optimizer)
        start = {name: p.detach().clone() for name, p in other.named_parameters()}
        train(pair, steps, optimizer, 3)
        own = SGD(other.parameters(), lr=LR)
        for number in range(3):
            own.zero_grad()
            ((number + 1) * loss(other)).backward()
            own.step()
            with torch.no_grad():
                for name, p in other.named_parameters():
                    t = LR * STRENGTH * weights[name]
                    p.copy_((p + t * start[name]) / (1 + t))
        assert_same(pair, other)

    def test_functions(self, pair):
        weights, start = weights_of(pair), starting_values(PAIR.find(pair))
        with torch.no_grad():
            for p in pair.parameters():
                p += 1.0
        add_penalty_gradient(pair, "ewc", PAIR, 0.5, start=start, precision=weights)
        assert_close({n: p.grad for n, p in pair.named_parameters()}, {
            n: 0.5 * f for n, f in weights.items()
        })  # fmt: skip
        apply_prox(pair, "ewc", PAIR, 2.0, start=start, precision=weights)
        for name, p in pair.named_parameters():
            assert_close(p.detach(), start[name] + 1.0 / (1.0 + 2.0 * weights[name]))
        with pytest.raises(ValueError, match="pass precision="):
            add_penalty_gradient(pair, "ewc", PAIR, 0.5, start=start)

    @pytest.mark.parametrize("ending", [".safetensors", ".pt"])
    def test_files(self, ending, pair, tmp_path):
        weights, path, other = weights_of(pair), tmp_path / f"f{ending}", copy.deepcopy(pair)
        (save_file if ending == ".safetensors" else torch.save)(weights, path)
        for module, given in ((pair, str(path)), (other, weights)):
            optimizer = SGD(module.parameters(), lr=LR)
            steps = PenaltySteps("ewc", PAIR, STRENGTH, precision=given)
            steps.attach(module, optimizer)
            train(module, steps, optimizer, 3)
        assert_same(pair, other, rtol=0, atol=0)

    def test_half_precision_keeps_small_numbers(self):
        """1e-9 is 0 in float16."""
        layer = nn.Linear(3, 2, bias=False, dtype=torch.float16)
        weights = {"weight": torch.full((2, 3), 1e-9)}
        optimizer = SGD(layer.parameters(), lr=LR)
        steps = PenaltySteps("ewc", ["*"], 1e9, precision=weights)
        steps.attach(layer, optimizer)
        with torch.no_grad():
            layer.weight += 1.0
        layer.weight.grad = torch.zeros_like(layer.weight)
        steps.before_step()
        assert_close(layer.weight.grad, torch.ones_like(layer.weight), rtol=1e-2, atol=1e-2)


class TestMembers:
    def test_slices_and_transposes(self):
        module = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
        weights = weights_of(module)
        for ties, members in (
            (Ties("a.weight", "b.weight.T"), lambda t: (t["a.weight"], t["b.weight"].T)),
            (Ties("a.weight[:]"), lambda t: t["a.weight"].unbind()),
        ):
            module.zero_grad()
            add_penalty_gradient(module, "soft_tie", ties, 1.0, precision=weights)
            leaves = dict(module.named_parameters())
            own, f = members(leaves), members(weights)
            mean = sum(x * w for x, w in zip(f, own, strict=True)) / sum(f)
            value = 0.5 * len(own) * sum(
                (x * (w - mean).square()).sum() for x, w in zip(f, own, strict=True)
            )  # fmt: skip
            expected = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
            for leaf, slope in zip(leaves.values(), expected, strict=True):
                if slope is not None:
                    assert_close(leaf.grad, slope)

    def test_another_name_of_a_shared_parameter(self, pair):
        share(pair, PAIR)
        weights = weights_of(pair)
        assert all(name.startswith("a.") for name in weights)
        optimizer = SGD(pair.parameters(), lr=LR)
        steps = PenaltySteps("ewc", ["b.*"], STRENGTH, precision=weights)
        other = copy.deepcopy(pair)
        penalty = ewc_of(other, weights)
        steps.attach(pair, optimizer)
        train(pair, steps, optimizer, 3)
        by_hand(other, SGD(other.parameters(), lr=LR), 3, penalty)
        assert_same(pair, other)

    @pytest.mark.parametrize("apply", ["gradient", "prox"])
    def test_members_that_became_one_parameter(self, apply, pair):
        """It takes the pulls of both, to their weighted mean."""
        weights = weights_of(pair)
        optimizer = SGD(pair.parameters(), lr=LR)
        steps = PenaltySteps("ewc", PAIR, STRENGTH, apply=apply, precision=weights)
        steps.attach(pair, optimizer)
        start = {n: p.detach().clone() for n, p in pair.named_parameters()}
        share(pair, PAIR)
        before = {n: p.detach().clone() for n, p in pair.named_parameters()}
        for p in pair.parameters():
            p.grad = torch.zeros_like(p)
        steps.before_step()
        SGD(pair.parameters(), lr=LR).step()
        steps.after_step()
        for name, w in before.items():
            f, g = weights[name], weights[name.replace("a.", "b.")]
            total = f + g
            point = (f * start[name] + g * start[name.replace("a.", "b.")]) / total
            t = LR * STRENGTH * total
            expected = w - t * (w - point) if apply == "gradient" else (w + t * point) / (1 + t)
            assert_close(pair.get_parameter(name).detach(), expected)

    def test_permuted_units_take_their_precision_along(self, pair):
        weights = weights_of(pair)
        optimizer = SGD(pair.parameters(), lr=LR)
        steps = PenaltySteps("ewc", Ties("a.weight.T", "b.weight.T"), STRENGTH, precision=weights)
        steps.attach(pair, optimizer)
        with torch.no_grad():
            for p in pair.parameters():
                p += 1.0
        value = steps.value()
        order = torch.tensor([1, 0])

        def move(parameter, values):
            return values[order]

        with torch.no_grad():
            for p in pair.parameters():
                p.copy_(move(p, p.clone()))
        steps.move_units(move)
        assert steps.value() == pytest.approx(value)
        kept = steps.state_dict()["precision"]
        assert_close(kept["a.weight.T"], weights["a.weight"][order].T)


MAKERS = {
    "Adam": Adam,
    "AdamW": partial(AdamW, weight_decay=0.0),
    "amsgrad": partial(Adam, amsgrad=True),
    "fused": partial(Adam, fused=True),
    "foreach": partial(Adam, foreach=True),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestAdam:
    def test_second_moments(self, make, pair):
        """The average of squared gradients, later ones weighted more."""
        optimizer = make(pair.parameters(), lr=LR, betas=(0.9, 0.8))
        gradients = []
        for scale in (1.0, 3.0, 2.0):
            optimizer.zero_grad()
            (scale * loss(pair)).backward()
            gradients.append({n: p.grad.clone() for n, p in pair.named_parameters()})
            optimizer.step()
        weights = [0.2 * 0.8 ** (2 - k) / (1 - 0.8**3) for k in range(3)]
        assert sum(weights) == pytest.approx(1.0)
        for name, moment in second_moments(pair, optimizer).items():
            squares = [w * g[name].square() for w, g in zip(weights, gradients, strict=True)]
            assert_close(moment, sum(squares))

    def test_live_moments_begin_with_the_second_step(self, make, pair):
        other = copy.deepcopy(pair)
        optimizer, own = make(pair.parameters(), lr=LR), make(other.parameters(), lr=LR)
        steps = PenaltySteps("soft_tie", PAIR, STRENGTH, precision="adam")
        steps.attach(pair, optimizer)
        train(pair, steps, optimizer, 1)
        assert steps.value() > 0.0
        train(pair, steps, optimizer, 3, begin=1)

        def moments(number):
            if number == 0:
                return {n: torch.zeros_like(p) for n, p in other.named_parameters()}
            return second_moments(other, own)

        by_hand(other, own, 4, merge_of(other, moments))
        assert_same(pair, other)
        steps.detach()
        value = merge_of(other, moments)(4).item()
        assert steps.value(pair) == pytest.approx(STRENGTH * value, rel=1e-4)

    def test_ewc_takes_them_once(self, make, pair):
        """Of the optimizer that has trained what was learned before."""
        optimizer = make(pair.parameters(), lr=LR)
        for _ in range(3):
            optimizer.zero_grad()
            loss(pair).backward()
            optimizer.step()
        other, weights = copy.deepcopy(pair), second_moments(pair, optimizer)
        own = make(other.parameters(), lr=LR)
        own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        steps = PenaltySteps("ewc", PAIR, STRENGTH, precision="adam")
        steps.attach(pair, optimizer)
        train(pair, steps, optimizer, 4)
        by_hand(other, own, 4, ewc_of(other, weights))
        assert_same(pair, other)


def test_second_moments_of_slices(pair):
    optimizer = Adam(pair.parameters(), lr=LR)
    steps = PenaltySteps("soft_tie", ["a.weight[:]"], STRENGTH, precision="adam")
    steps.attach(pair, optimizer)
    train(pair, steps, optimizer, 2)
    moments = second_moments(pair, optimizer)["a.weight"]
    assert_close(steps.state_dict()["precision"], {f"a.weight[{i}]": moments[i] for i in range(2)})


class TestResuming:
    @pytest.mark.parametrize(
        ("recipe", "precision"), [("ewc", "mapping"), ("soft_tie", "mapping"), ("soft_tie", "adam")]
    )
    def test_is_bitwise(self, recipe, precision, pair):
        given = precision if precision == "adam" else weights_of(pair)

        def made(module):
            steps = PenaltySteps(recipe, PAIR, STRENGTH, precision=given)
            return steps, Adam(module.parameters(), lr=LR)

        steps, optimizer = made(pair)
        steps.attach(pair, optimizer)
        train(pair, steps, optimizer, 2)
        saved = pickle.dumps([s.state_dict() for s in (pair, optimizer, steps)])
        train(pair, steps, optimizer, 3, begin=2)
        fresh = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        resumed, own = made(fresh)
        for thing, state in zip((fresh, own, resumed), pickle.loads(saved), strict=True):
            thing.load_state_dict(state)
        resumed.attach(fresh, own)
        train(fresh, resumed, own, 3, begin=2)
        assert_same(fresh, pair, rtol=0, atol=0)

    def test_ewc_from_adam_has_what_was_read_at_first(self, pair):
        optimizer = Adam(pair.parameters(), lr=LR)
        loss(pair).backward()
        optimizer.step()
        steps = PenaltySteps("ewc", PAIR, STRENGTH, precision="adam")
        steps.attach(pair, optimizer)
        first = second_moments(pair, optimizer)
        train(pair, steps, optimizer, 3)
        assert_close(steps.state_dict()["precision"], first)
        resumed = PenaltySteps("ewc", PAIR, STRENGTH, precision="adam")
        resumed.load_state_dict(steps.state_dict())
        resumed.attach(pair, optimizer)
        assert_close(resumed.state_dict()["precision"], first, rtol=0, atol=0)

    def test_a_second_training_takes_what_is_given(self, pair):
        weights = weights_of(pair)
        steps = PenaltySteps("ewc", PAIR, STRENGTH, precision=weights)
        steps.attach(pair, SGD(pair.parameters(), lr=LR))
        other = copy.deepcopy(pair)
        for f in weights.values():
            f.mul_(2.0)
        steps.attach(other, SGD(other.parameters(), lr=LR))
        assert_close(steps.state_dict()["precision"], weights)


def attach(pair, recipe="ewc", precision=None, optimizer=None, ties=PAIR):
    steps = PenaltySteps(recipe, ties, STRENGTH, precision=precision)
    steps.attach(pair, optimizer or SGD(pair.parameters(), lr=LR))
    return steps


class TestRefusals:
    def test_missing_precision(self):
        with pytest.raises(ValueError, match=r"pass precision=, such as what lit_share\.fisher"):
            PenaltySteps("ewc", PAIR, STRENGTH)

    def test_other_penalties(self, pair):
        with pytest.raises(ValueError, match=r'is for norm="squared", not for norm="l1"'):
            PenaltySteps("layer_tie", PAIR, STRENGTH, precision=weights_of(pair))

    def test_other_types(self):
        with pytest.raises(TypeError, match=r"precision must be a mapping .*: got float"):
            PenaltySteps("ewc", PAIR, STRENGTH, precision=1.0)

    @pytest.mark.parametrize("text", ["fisher", "adamw"])
    def test_unknown_words(self, text):
        message = rf"unknown precision '{text}': write 'adam', .*fisher\(module, batches\)"
        with pytest.raises(ValueError, match=message):
            PenaltySteps("ewc", PAIR, STRENGTH, precision=text)

    def test_missing_files(self, pair, tmp_path):
        with pytest.raises(ValueError, match=r"is not a file: save what lit_share\.fisher"):
            attach(pair, precision=tmp_path / "none.pt")

    @pytest.mark.parametrize(
        ("ending", "save"),
        [
            ("pt", "torch.save"),
            ("pth", "torch.save"),
            ("safetensors", "safetensors.torch.save_file"),
        ],
    )
    def test_missing_files_are_saved_by_the_tool_of_their_ending(self, pair, ending, save):
        with pytest.raises(ValueError, match=f"there, with {re.escape(save)}$"):
            attach(pair, precision=f"none.{ending}")

    def test_files_of_other_things(self, pair, tmp_path):
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(ValueError, match="must contain a dict from names of parameters"):
            attach(pair, precision=tmp_path / "list.pt")

    def test_missing_parameters(self, pair):
        weights = weights_of(pair)
        del weights["b.weight"]
        message = r"no entry of 'b.weight': compute it .*; it has 'a.weight', 'a.bias', 'b.bias'$"
        with pytest.raises(ValueError, match=message):
            attach(pair, precision=weights)
        with pytest.raises(ValueError, match="it has no entries"):
            attach(pair, precision={})

    def test_other_shapes(self, pair):
        weights = weights_of(pair) | {"a.weight": torch.ones(3, 2)}
        message = r"precision of 'a.weight' has shape \(3, 2\), but the parameter has \(2, 3\)"
        with pytest.raises(ValueError, match=message):
            attach(pair, precision=weights)

    @pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
    def test_impossible_numbers(self, number, pair):
        weights = weights_of(pair)
        weights["b.bias"][1] = number
        with pytest.raises(ValueError, match=r"of 'b.bias' has numbers that are negative"):
            attach(pair, precision=weights)

    def test_only_zeros(self, pair):
        weights = {n: torch.zeros_like(p) for n, p in pair.named_parameters()}
        message = r"precision of 'a.weight', 'b.weight', .* is zero .* would do nothing: compute"
        with pytest.raises(ValueError, match=message):
            attach(pair, precision=weights)
        weights["a.bias"][0] = 1.0
        with pytest.warns(UserWarning, match=r"'a.weight', 'b.weight', 'b.bias' is zero .* exclud"):
            attach(pair, precision=weights)

    def test_optimizers_without_second_moments(self, pair):
        message = r"SGD has no second moments .* torch.optim.Adam or AdamW"
        with pytest.raises(TypeError, match=message):
            attach(pair, "soft_tie", "adam")
        with pytest.raises(TypeError, match=message):
            second_moments(pair, SGD(pair.parameters(), lr=LR))

    def test_optimizers_that_have_not_stepped(self, pair):
        optimizer = Adam(pair.parameters(), lr=LR)
        message = r"have not stepped yet: pass precision=lit_share.second_moments\(module, optimize"
        with pytest.raises(ValueError, match=message):
            attach(pair, "ewc", "adam", optimizer)
        with pytest.raises(ValueError, match="Adam has no second moments of the module's"):
            second_moments(pair, optimizer)

    def test_value_without_optimizers(self, pair):
        steps = PenaltySteps("soft_tie", PAIR, STRENGTH, precision="adam")
        with pytest.raises(ValueError, match="is that of optimizers, and none is attached"):
            steps.value(pair)

    def test_moments_that_never_come(self, pair):
        """The tied parameters get no gradients."""
        optimizer = Adam(pair.parameters(), lr=LR)
        steps = attach(pair, "soft_tie", "adam", optimizer, Ties("a.weight", "b.weight"))
        for p in (pair["a"].bias, pair["b"].bias):
            p.grad = torch.ones_like(p)
        optimizer.step()
        with pytest.warns(UserWarning, match=re.escape("precision='adam' does nothing: check")):
            steps.end_epoch()
