"""What a search may choose, as overrides write it."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lit_share.lab.search import Choices, Range, Space, searched, split_by_way


def space(*overrides: str, tune: tuple[str, ...] = ()) -> Space:
    return searched(OverridesParser.create().parse_overrides([*overrides]), tune)


def test_ranges() -> None:
    lr, depth = "model.lr", "+model.depth"
    assert space(
        "strength=tag(log,interval(0.001,1))",
        f"{lr}=interval(0.1,0.2)",
        f"{depth}=int(interval(1,4))",
        "seed=0,1",
        tune=(lr, "model.depth"),
    ) == {
        "strength": Range("strength", 0.001, 1.0, log=True),
        lr: Range(lr, 0.1, 0.2),
        depth: Range(depth, 1, 4, whole=True),
    }


def test_lists_of_what_is_tuned_are_searched_and_others_are_a_grid() -> None:
    assert space("strength=0.1,1", "ties=all,head", "data.n_b=20,50", tune=("ties",)) == {
        "strength": Choices("strength", ("0.1", "1")),
        "ties": Choices("ties", ("all", "head")),
    }
    assert space("strength=range(1,3)", "regularizer=none,l2") == {
        "strength": Choices("strength", ("1", "2"))
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("0.1", "1e-3", "${x}"), [((), "0.1,1e-3,${x}")]),
        (("learned", "0.1"), [(("+strength=learned",), ""), (("+strength=0.1",), "")]),
        (
            ("0.1", "'path'", "1", "{ path:{steps:2}}"),
            [((), "0.1,1"), ((), "'path',{ path:{steps:2}}")],
        ),
    ],
)
def test_ways_to_find_strengths_are_apart(values: Any, expected: Any) -> None:
    lr = Range("lr", 0.1, 1.0)
    found = split_by_way([lr, Choices("+strength", values)])
    assert all(chosen[0] is lr for _, chosen in found)
    assert [(given, "".join(map(str, chosen[1:]))) for given, chosen in found] == expected


def test_other_lists_are_not_taken_apart() -> None:
    space_ = (Choices("ties", ("all", "{path:x}")), Range("strength", 0.1, 1.0))
    assert split_by_way(space_) == [((), space_)]


def test_the_last_override_of_a_key_counts() -> None:
    assert list(space("strength=0.1,1", "lr=interval(1,2)", "strength=1", tune=("lr",))) == ["lr"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seed=0,1", "strength=0.1"], "hydra/sweeper=optuna has nothing to choose: write a range"),
        (["model.lr=interval(1,2)"], r"model.lr=interval\(1,2\): .*: write tune=\[model.lr\]"),
        (["seed=interval(0,9)"], r"seed=interval\(0,9\): that would be choosing the luckiest run"),
        (["data.n_b=interval(0,9)"], "scores on different data cannot be compared"),
        (["strength=interval(1,0.1)"], r"strength=interval\(1,0.1\): write the smaller end first"),
        (["seed=interval(0,1),5"], r"seed=interval\(0,1\),5: a range stands alone: write"),
        (["strength=tag(log,interval(0,1))"], "a range with the tag log begins above 0"),
        (["strength=tag(lgo,interval(1,2))"], "unknown tag 'lgo': the only one is log"),
    ],
)
def test_mistakes(overrides: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        space(*overrides)


@pytest.mark.parametrize(
    ("choice", "value", "text"),
    [
        (Range("a", 0.001, 1.0), 0.123456, "0.1235"),
        (Range("a", 0.12344, 1.0), 0.12344, "0.12344"),  # rounding does not leave the range
        (Range("a", 1e-9, 1.0), 1.23456e-7, "1.235e-07"),
        (Range("a", 1, 9, whole=True), 3, "3"),
        (Choices("a", ("all", "head")), "head", "head"),
    ],
)
def test_values_are_written_and_read(choice: Any, value: Any, text: str) -> None:
    assert choice.write(value) == f"a={text}"
    read = choice.read(text)
    assert choice.write(read) == f"a={text}"


@pytest.mark.parametrize("text", ["0.5", "10", "1.5", "x", ""])
def test_other_values_are_not_read(text: str) -> None:
    assert Range("a", 1, 9, whole=True).read(text) is None
    assert Choices("a", ("1", "9")).read(text) is None
