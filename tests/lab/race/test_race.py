"""Races: backward elimination, replayed from what is known of trials."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lit_share.lab.race import Race, Standing, Step, Tried

LAYERS = {"head": ["a.head.*"], "second": ["a.second.*"], "first": ["a.first.w", "a.first.b"]}
FIXED = ("regularizer=hard_tie", "seed=0")


def race(mode: str = "max", **options: str) -> Race:
    return Race(FIXED, (), mode, 8, **options)


def cell(*untied: str) -> tuple[str, ...]:
    return race().cell([pattern for layer in untied for pattern in LAYERS[layer]])


def run(scores: dict[tuple[str, ...], float | None], mode: str = "max") -> tuple[Standing, int]:
    """Try what is asked for until the race has ended; sets without a score have 0."""
    tried: dict[tuple[str, ...], Tried] = {}
    wanted = {cell(*untied): score for untied, score in scores.items()}
    while True:
        standing = race(mode).standing(tried)
        new = [own for own in standing.trials if own not in tried]
        if not new:
            return standing, len(tried)
        tried |= {own: Tried(wanted.get(own, 0.0), LAYERS) for own in new}


def test_the_best_layer_is_untied_while_that_helps() -> None:
    scores = {(): 0.5, ("head",): 0.6, ("second",): 0.7, ("head", "second"): 0.8}
    standing, count = run(scores)
    assert standing.winner == cell("head", "second")
    assert standing.steps == [Step("second", 0.5, 0.7), Step("head", 0.7, 0.8)]
    assert standing.tied == ("first",)
    # All, all but one of three, all but one of two.
    assert count == 6
    assert sorted(standing.trials.values()) == [0, 1, 1, 1, 2, 2]


def test_of_equal_scores_those_with_more_ties_win() -> None:
    standing, count = run({(): 0.5, ("head",): 0.5, ("second",): 0.5})
    assert (standing.winner, standing.steps, count) == (cell(), [], 4)
    assert standing.tied == ("head", "second", "first")


def test_among_equal_layers_the_smallest_is_untied() -> None:
    standing, _ = run({(): 0.5, ("second",): 0.6, ("head",): 0.6})
    assert standing.steps == [Step("head", 0.5, 0.6)]


def test_small_scores_may_be_better() -> None:
    standing, _ = run({(): 0.5, ("head",): 0.4, ("second",): 0.9}, mode="min")
    # Sets without a score have 0, which is the best then.
    assert standing.steps[0] == Step("first", 0.5, 0.0)


def test_failed_trials_are_passed_over() -> None:
    standing, _ = run({(): 0.5, ("head",): None, ("second",): 0.6})
    assert standing.winner == cell("second")
    standing, count = run({(): None})
    assert (standing.winner, count) == (None, 1)


def test_a_single_layer_needs_one_trial() -> None:
    standing = race().standing({cell(): Tried(0.5, {"head": LAYERS["head"]})})
    assert (standing.winner, len(standing.trials)) == (cell(), 1)


@pytest.mark.parametrize("name", ["it's", "a-b", "two words", "0.weight", "a.*", "[x]"])
def test_patterns_of_any_name_can_be_parsed(name: str) -> None:
    own = Race((), ("kept",), "max", 8, key="+ties.exclude").cell([name])
    (override,) = OverridesParser.create().parse_overrides([*own])
    assert (override.key_or_group, override.value()) == ("ties.exclude", ["kept", name])
