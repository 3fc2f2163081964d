"""`clusters`: which members are equal."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from lit_share.sharing import share
from lit_share.ties import (
    ClusteredTie,
    ClusterReport,
    TieError,
    Ties,
    cluster_labels,
    cluster_ties,
    clusters,
)

from .._modules import mlp, module_of, pair_of

FIVE = Ties(*(f"{name}.*" for name in "abcde"))


def planted(groups="01120"):
    """Five models; those of one digit are equal."""
    return pair_of(**{n: mlp(int(g)) for n, g in zip("abcde", groups, strict=True)})


def test_planted_groups_are_found():
    report = clusters(planted(), FIVE)
    assert [tie.name for tie in report.ties] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(tie.labels == (0, 1, 1, 2, 0) for tie in report.ties)
    assert report.ties[3].groups == [
        ["a.2.bias", "e.2.bias"],
        ["b.2.bias", "c.2.bias"],
        ["d.2.bias"],
    ]
    assert (report.members, report.count) == (20, 12)


def test_each_tie_has_its_own():
    module = planted()
    with torch.no_grad():
        module["c"][2].bias[1] += 1e-12
    assert [tie.count for tie in clusters(module, FIVE).ties] == [3, 3, 3, 4]


def test_pairs():
    pair = Ties("a.*", "b.*")
    assert clusters(pair_of(a=mlp(0), b=mlp(0)), pair).count == 4
    assert clusters(pair_of(a=mlp(0), b=mlp(1)), pair).count == 8


def test_aliases_are_equal_even_where_they_are_nan():
    module = module_of({"a": (3,), "b": (3,), "c": (3,), "d": (3,)})
    module.c = module.a
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(math.nan)
    (tie,) = clusters(module, Ties("a", "b", "c", "d")).ties
    assert tie.labels == (0, 1, 0, 2)


def test_a_transposed_alias_is_compared_as_it_is():
    module = module_of({"a": (3, 3), "b": (3, 3), "c": (3, 3)})
    share(module, Ties("a", "b.T"))
    (tie,) = clusters(module, Ties("a", "b", "c")).ties
    assert tie.labels == (0, 1, 2)
    (tie,) = clusters(module, Ties("a", "b.T", "c")).ties
    assert tie.labels == (0, 0, 1)


def test_transposes_and_slices():
    module = module_of({"enc": (4, 3), "dec": (3, 4), "other": (4, 3), "local": (5, 2)})
    with torch.no_grad():
        module.dec.copy_(module.other.T)
        module.local[3:] = module.local[0]
    (tie,) = clusters(module, Ties("enc", "dec.T", "other")).ties
    assert tie.groups == [["enc"], ["dec.T", "other"]]
    (tie,) = clusters(module, Ties("local[:]")).ties
    assert tie.labels == (0, 1, 2, 0, 0)


def test_many_slices():
    module = module_of({"local": (900, 3, 3)})
    with torch.no_grad():
        module.local[450:] = module.local[:450]
    (tie,) = clusters(module, Ties("local[:]")).ties
    assert tie.labels == (*range(450), *range(450))


def test_members_of_several_dtypes():
    module = pair_of(a=mlp(0, torch.float32), b=mlp(0), c=mlp(0, torch.float32))
    assert all(t.labels == (0, 1, 0) for t in clusters(module, Ties("a.*", "b.*", "c.*")).ties)


def test_ties_of_a_single_member_are_left_out():
    (tie,) = clusters(module_of({"w": (3, 2), "v": (1, 2)}), Ties("*[:]")).ties
    assert tie.name == "w"


def test_as_json():
    (tie,) = (json.loads(json.dumps(clusters(planted(), FIVE).as_dict()["0.bias"])),)
    assert tie == {"a.0.bias": 0, "b.0.bias": 1, "c.0.bias": 1, "d.0.bias": 2, "e.0.bias": 0}
    assert list(tie) == [f"{name}.0.bias" for name in "abcde"]


def test_as_text():
    text = str(clusters(planted(), Ties(*(f"{name}.0.bias" for name in "abcde"))))
    assert text.splitlines() == [
        "ties: 1, members: 5, clusters: 3",
        "  a.0.bias: a.0.bias = e.0.bias | b.0.bias = c.0.bias | d.0.bias",
    ]


def labelled(*labels):
    """A report of a tie of members a, b, … with these labels."""
    members = tuple("abcdefghijklmnopqrstuvwxyz"[: len(labels)])
    return ClusterReport((ClusteredTie("w", members, labels),))


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ((0, 1, 2, 3, 4, 3), "d = f | 4 alone: a, b, c, e"),
        ((0, 1, 2, 3, 3), "a | b | c | d = e"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 7), "h = i | 7 alone: a, b, c, … 3 more …, g"),
        ((0, 1, 2, 3), "4 alone: a, b, c, d"),
        ((0,) * 7, "a = b = c = … 3 more … = g"),
        ((0,) * 7 + (1,), "a = b = c = d = e = f = g | h"),
        ((0,) * 25 + (1,), "a = b = c = … 21 more … = y | z"),
        (
            (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6),
            "a = b | c = d | e = f | g = h | i = j | k = l | m = n",
        ),
    ],
)
def test_members_that_equal_others_are_not_left_out(labels, line):
    assert str(labelled(*labels)).splitlines()[1] == f"  w: {line}"


def test_one_tie_is_no_ties():
    console = Console(file=io.StringIO(), width=80)
    console.print(labelled(0, 1, 1))
    assert "1 tie " in console.file.getvalue()


def test_as_a_table():
    console = Console(file=io.StringIO(), width=80)
    console.print(clusters(planted(), FIVE))
    text = console.file.getvalue()
    for words in ("b.2.bias = c.2.bias", "12", "20 members", "4 ties"):
        assert words in text


def test_a_module_that_was_shared():
    module = planted()
    before = clusters(module, FIVE)
    share(module, FIVE, where="equal")
    assert clusters(module, FIVE) == before


def test_wrong_arguments():
    module = planted()
    with pytest.raises(TypeError, match=r"ties must be a lit_share\.Ties"):
        clusters(module, {"a.*"})
    with pytest.raises(TieError, match=r"'z\.\*' matches no parameter"):
        clusters(module, Ties("a.*", "z.*"))
    with pytest.raises(TieError, match=r"Ties\('a\.\*'\) compares nothing.*a pattern for each mod"):
        clusters(module, Ties("a.*"))
    module["b"] = nn.Sequential(nn.Linear(4, 3, device="meta"), nn.Tanh(), mlp(0)[2])
    with pytest.raises(TieError, match=r"'b\.0\.weight' is on the meta device"):
        clusters(module, Ties("a.*", "b.*"))


def test_ties_that_share_no_member_are_compared_at_once():
    module = planted()
    labels = cluster_labels(Ties("a.*", "b.*", "c.*").find(module))
    assert labels == [[0, 1, 1]] * 4
    assert cluster_labels([]) == []


def test_the_clusters_inside_a_tensor_are_its_values():
    """A million numbers are counted, and not listed."""
    module = module_of({"w": (1000, 1000), "b": (4,)})
    with torch.no_grad():
        module.w.mul_(4).round_()
        module.b.copy_(torch.tensor([0.0, -0.0, 1.0, 1.0]))
    report = clusters(module, Ties("*[...]"))
    values = len(set(module.w.flatten().tolist()))
    assert [tie.count for tie in report.ties] == [values, 2]
    assert (report.members, report.count) == (10**6 + 4, values + 2)
    assert report.as_dict() == {}
    assert f"w[...]: {values} values of 1,000,000 numbers" in str(report)
    console = Console(file=io.StringIO(), width=120)
    console.print(report)
    assert "2 values of 4 numbers" in console.file.getvalue()


def test_values_beside_members():
    module = pair_of(a=mlp(0), b=mlp(0), c=mlp(1))
    inside, several = Ties("a.0.weight[...]"), Ties("a.0.weight", "b.0.weight", "c.0.weight")
    found = [*inside.find(module), *several.find(module)]
    assert [tie.count for tie in cluster_ties(found).ties] == [12, 2]
    assert [tie.count for tie in cluster_ties(found[::-1]).ties] == [2, 12]
