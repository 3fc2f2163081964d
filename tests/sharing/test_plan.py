"""The plan that is printed before training."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from torch import nn

from lit_share.sharing import TieError, Ties, share

from ._modules import mlp, module_of, pair_of


def drawn(plan):
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(plan)
    return console.file.getvalue()


def test_counts_of_a_pair():
    plan = Ties("a.*", "b.*").plan(pair_of(a=mlp(0), b=mlp(1)))
    assert [(tie.name, tie.shape, tie.parameters, tie.saved) for tie in plan.ties] == [
        ("0.weight", (3, 4), 24, 12),
        ("0.bias", (3,), 6, 3),
        ("2.weight", (2, 3), 12, 6),
        ("2.bias", (2,), 4, 2),
    ]
    assert (plan.parameters, plan.saved) == (46, 23)


def test_counts_of_three_members():
    (tie,) = Ties("a.w", "b.w", "c.w").plan(module_of({"a.w": (5,), "b.w": (5,), "c.w": (5,)})).ties
    assert (tie.members, tie.parameters, tie.saved) == (("a.w", "b.w", "c.w"), 15, 10)


def test_one_member_saves_nothing():
    (tie,) = Ties("w").plan(module_of({"w": (5, 2)})).ties
    assert (tie.parameters, tie.saved) == (10, 0)


def test_slices_and_transposed_members():
    plan = Ties("local[:]").plan(module_of({"local": (4, 3)}))
    assert [(t.members, t.shape, t.parameters, t.saved) for t in plan.ties] == [
        (("local[0]", "local[1]", "local[2]", "local[3]"), (3,), 12, 9)
    ]
    plan = Ties("enc", "dec.T").plan(module_of({"enc": (4, 3), "dec": (3, 4)}))
    assert [(t.members, t.shape, t.parameters, t.saved) for t in plan.ties] == [(("enc", "dec.T"), (4, 3), 24, 12)]


def test_shared_parameters_are_counted_once():
    pair = pair_of(a=mlp(0), b=mlp(1))
    share(pair, Ties("a.0.*", "b.0.*"))
    plan = Ties("a.*", "b.*").plan(pair)
    assert [(tie.parameters, tie.saved) for tie in plan.ties] == [(12, 0), (3, 0), (12, 6), (4, 2)]


def test_a_weight_that_each_model_uses_twice_is_counted_once():
    models = {root: pair_of(embed=nn.Linear(3, 2), head=nn.Linear(3, 2)) for root in "ab"}
    for model in models.values():
        model["head"].weight = model["embed"].weight
    plan = Ties("a.*.weight", "b.*.weight").plan(pair_of(**models))
    assert (plan.parameters, plan.saved) == (12, 6)


def test_plan_is_of_the_time_it_was_made():
    pair = pair_of(a=mlp(0), b=mlp(1))
    plan = Ties("a.*", "b.*").plan(pair)
    share(pair, Ties("a.*", "b.*"))
    assert plan.saved == 23


def test_plain_text():
    module = module_of({"a.w": (50, 40), "a.s": (), "b.w": (50, 40), "b.s": ()})
    assert str(Ties("a.*", "b.*").plan(module)).splitlines() == [
        "ties: 2, tied parameters: 4,002, saved by hard sharing: 2,001",
        "  w (50×40): a.w = b.w",
        "  s (scalar): a.s = b.s",
    ]


def test_many_members_are_shortened():
    plan = Ties("w[:]").plan(module_of({"w": (7, 2)}))
    assert str(plan).splitlines()[1] == "  w (2): w[0] = w[1] = w[2] = … 3 more … = w[6]"
    text = drawn(plan)
    assert "w[6]" in text
    assert "… 3 more …" in text
    assert "w[4]" not in text


def test_table():
    text = drawn(Ties("a.*", "b.*").plan(pair_of(a=mlp(0), b=mlp(1))))
    for words in ("0.weight", "a.0.weight", "b.2.bias", "3×4", "4 ties", "46", "23"):
        assert words in text


def test_wrong_patterns_have_no_plan():
    with pytest.raises(TieError, match="matches no parameter"):
        Ties("a.*", "zzz.*").plan(pair_of(a=mlp(0)))


def test_patterns_that_exclude_nothing_are_told():
    module = pair_of(a=mlp(0), b=mlp(1))
    plan = Ties("a.*", "b.*", exclude=["*.2.*", "*.haed.*"]).plan(module)
    assert str(plan).splitlines()[-1] == "exclude matches nothing: '*.haed.*'"
    assert "exclude matches nothing: '*.haed.*'" in drawn(plan)
