"""The plan that is printed before training."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from rich.console import Console
from torch import nn

from lit_share.sharing import share
from lit_share.ties import TieError, Ties, same_start

from .._modules import mlp, module_of, pair_of


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
    assert [(t.members, t.shape, t.parameters, t.saved) for t in plan.ties] == [
        (("enc", "dec.T"), (4, 3), 24, 12)
    ]


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


def wide(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 10))


@pytest.mark.parametrize(
    ("module", "patterns", "unaligned"),
    [
        ({"a": wide(0), "b": wide(1)}, ("a.*", "b.*"), ("0.weight", "2.weight")),
        ({"a": wide(0), "b": wide(1)}, ("a.0.*", "b.0.*"), ("weight",)),
        (
            {"a": wide(0), "b": wide(0), "c": wide(1)},
            ("a.*", "b.*", "c.*"),
            ("0.weight", "2.weight"),
        ),
        ({"a": wide(0), "b": wide(0)}, ("a.*", "b.*"), ()),
        ({"a": wide(0), "b": wide(1)}, ("*.weight",), ()),
        (
            {"a": nn.Linear(30, 30), "b": nn.Linear(30, 30)},
            ("a.*", "b.*"),
            (),
        ),  # inputs and outputs are the data's
        ({"a": wide(0), "b": wide(1)}, ("a.0.weight[:]",), ()),
        ({"a": wide(0).to("meta"), "b": wide(1)}, ("a.*", "b.*"), ()),
        ({"a": wide(0).half(), "b": wide(0)}, ("a.*", "b.*"), ()),
        (
            {"a": nn.ModuleList([nn.Linear(9, 5), nn.Linear(5, 9)])},
            ("a.0.weight", "a.1.weight.T"),
            (),
        ),
        (
            {"a": wide(0), "b": wide(1), "c": nn.LazyLinear(2)},
            ("a.*", "b.*"),
            ("0.weight", "2.weight"),
        ),
    ],
)
def test_units_that_do_not_correspond(module, patterns, unaligned):
    assert Ties(*patterns).plan(pair_of(**module)).unaligned == unaligned


def test_a_transpose_that_starts_apart_is_said():
    torch.manual_seed(0)
    net = nn.ModuleDict({"encoder": nn.Linear(20, 9), "decoder": nn.Linear(9, 20)})
    ties = Ties("encoder.weight", "decoder.weight.T")
    plan = ties.plan(net)
    # An encoder and its decoder have the same units, which are not to be permuted.
    assert (plan.unlike, plan.unaligned) == (("encoder.weight",), ())
    said = "the members of encoder.weight start from unrelated weights: their units correspond, but"
    assert said in str(plan)
    assert "lit_share.align" not in str(plan)
    same_start(net, ties)
    assert ties.plan(net).unlike == ()


def test_what_was_trained_from_the_same_start_corresponds():
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))
    b = copy.deepcopy(a)
    with torch.no_grad():
        for parameter in [*a.parameters(), *b.parameters()]:
            parameter.add_(torch.randn_like(parameter) * parameter.std())
    assert Ties("a.*", "b.*").plan(pair_of(a=a, b=b)).unaligned == ()


def test_units_that_do_not_correspond_are_said():
    plan = Ties("a.*", "b.*").plan(pair_of(a=wide(0), b=wide(1)))
    said = (
        "the members of 0.weight and 1 more start from unrelated weights, so that their units do "
        "not correspond: initialise them alike, with copy.deepcopy, lit_share.same_start(module, "
        "ties) or lit_share.Paired(..., same_init=True), or permute their units with "
        "lit_share.align or the callback lit_share.Align"
    )
    assert str(plan).splitlines()[-1] == said
    assert said in " ".join(drawn(plan).split())


def three(groups):
    return pair_of(**{n: mlp(int(g)) for n, g in zip("abc", groups, strict=True)})


def test_some_members_are_equal():
    plan = Ties("a.*", "b.*", "c.*").plan(three("010"))
    assert [tie.labels for tie in plan.clusters] == [(0, 1, 0)] * 4
    assert str(plan).splitlines()[-5:] == [
        "some members are equal:",
        "  0.weight: a.0.weight = c.0.weight | b.0.weight",
        "  0.bias: a.0.bias = c.0.bias | b.0.bias",
        "  2.weight: a.2.weight = c.2.weight | b.2.weight",
        "  2.bias: a.2.bias = c.2.bias | b.2.bias",
    ]
    assert "a.2.bias = c.2.bias | b.2.bias" in drawn(plan)


@pytest.mark.parametrize("groups", ["000", "012"])
def test_nothing_is_said_where_all_members_are_equal_or_different(groups):
    plan = Ties("a.*", "b.*", "c.*").plan(three(groups))
    assert "equal" not in str(plan)
    assert [tie.count for tie in plan.clusters] == [len(set(groups))] * 4


def test_of_many_ties_with_equal_members_the_first_are_said():
    models = {n: pair_of(x=mlp(seed), y=mlp(seed)) for n, seed in {"a": 0, "b": 1, "c": 0}.items()}
    plan = Ties("a.*", "b.*", "c.*").plan(pair_of(**models))
    assert str(plan).splitlines()[-1] == "  and 3 more"


def test_values_that_are_not_there_are_not_compared():
    module = three("010")
    module["b"][0] = nn.Linear(4, 3, device="meta")
    plan = Ties("a.*", "b.*", "c.*").plan(module)
    assert [tie.name for tie in plan.clusters] == ["2.weight", "2.bias"]
    assert Ties("a.*").plan(module).clusters == ()


def test_numbers_of_a_tensor():
    module = module_of({"w": (3, 4), "b": (3,)})
    plan = Ties("*[...]").plan(module)
    assert [(tie.members, tie.parameters, tie.saved) for tie in plan.ties] == [
        (("w[...]",), 12, 0),
        (("b[...]",), 3, 0),
    ]
    assert str(plan).splitlines() == [
        "ties: 2, tied parameters: 15",
        "  w (3×4): w[...]",
        "  b (3): b[...]",
        "different values:",
        "  w[...]: 12 values of 12 numbers",
        "  b[...]: 3 values of 3 numbers",
    ]
    rows = [
        line.split()[-1] for line in drawn(Ties("*[...]").plan(module)).splitlines() if "[" in line
    ]
    assert rows[:2] == ["-", "-"], "hard sharing is not for numbers"
    with torch.no_grad():
        module.w.fill_(0.5)
        module.w[0] = 2.0
    text = str(Ties("*[...]").plan(module))
    assert "different values:\n  w[...]: 2 values of 12 numbers" in text
    assert "w[...]: 2 values of 12 numbers" in drawn(Ties("*[...]").plan(module))


def test_numbers_on_the_meta_device_are_not_counted():
    with torch.device("meta"):
        layer = nn.Linear(10**6, 10**6)
    assert Ties("weight[...]").plan(layer).clusters == ()
