"""Comparing strategies over seeds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from difflib import get_close_matches
from statistics import fmean, median
from typing import Literal, TypeAlias

from lit_share.lab.report._comparison import Comparison, Row, default_metric
from lit_share.lab.report._estimate import estimate
from lit_share.lab.report._settings import columns, not_to_be_tuned, other_overrides, tuned
from lit_share.lab.results import Result
from lit_share.text import suggest

# data, model, ties, what else was overridden, strategy
Setting: TypeAlias = tuple[str | None, str | None, str | None, str, str]


def compare(
    results: Iterable[Result],
    metric: str | None = None,
    baseline: str = "none",
    tune: Collection[str] = (),
) -> Comparison:
    """Compare strategies by a test metric, with strengths chosen on validation data.

    For each strategy and seed one run is chosen among those of all strengths and other tuned keys: the one with the
    best objective on validation data, and among equals the one of the smallest strength. Test metrics choose nothing.
    Strategies are compared over seeds, and with the baseline seed by seed, because runs of one seed have their data and
    initial weights in common. A run counts as failed if it ended with an error, or if its objective is not a finite
    number. What failed in an earlier command of the same sweep's directory is listed, but is in no row, as long as
    there are others: a command that was misspelt is no experiment.

    Args:
        results: What `read_results` found. Different data, models, ties and other overrides than of the strategy,
            strength and seed are compared apart, but they must have the objective in common. `none` has no ties, so
            it stands for all ties if there is none for the same.
        metric: Name of the test metric; by default the objective's name with `test` in place of `val`.
        baseline: The strategy that the others are compared with.
        tune: Further keys that are chosen on validation data, such as `ties`, besides those in the runs' configs.

    Returns:
        The comparison, which Rich can print.

    Raises:
        ValueError: If there are no results, or none of the baseline that is asked for, if their objectives differ, if
            a finished run lacks the metric, or if no run was started with a key to tune.

    Example:
        >>> from pathlib import Path
        >>> from lit_share.lab.results import Result
        >>> def run(strategy, strength, val, test):
        ...     return Result(Path(), 1, "finished", strategy, 0, "val/acc", "max", strength=strength,
        ...                   validation={"val/acc": val}, test={"test/acc": test})
        >>> runs = [run("none", None, 0.7, 0.70), run("l2", 0.1, 0.9, 0.75), run("l2", 1.0, 0.8, 0.99)]
        >>> for row in compare(runs).rows:
        ...     print(row.strategy, row.strength, row.score.mean)
        none None 0.7
        l2 0.1 0.75
    """
    results = [replace(result, tune=[*result.tune, *tune]) for result in results]
    if not results:
        raise ValueError("there are no results to compare")
    failures = [result for result in results if result.failure is not None]
    results = [result for result in results if not (result.earlier and result.failure)] or results
    for key in tune:
        _check_tuned(key, results)
    strategies = {result.strategy for result in results}
    if baseline not in {*strategies, "none"}:
        raise ValueError(
            f"no run of the baseline {baseline!r}: there are {', '.join(sorted(strategies))}"
        )
    finished = [result for result in results if result.failure is None]
    objective, mode = _objective(finished or results)
    metric = metric or default_metric(objective)
    for result in finished:
        _check_metric(result, metric)

    groups: dict[Setting, list[Result]] = defaultdict(list)
    for result in results:
        data, model, ties = columns(result).values()
        groups[data, model, ties, " ".join(other_overrides(result)), result.strategy].append(result)
    chosen = {setting: best_of_each_seed(runs) for setting, runs in groups.items()}
    rows = [
        _row(
            setting, chosen[setting], _baseline(setting, chosen, baseline), groups[setting], metric
        )
        for setting in sorted(groups, key=lambda s: (*map(_natural, s[:4]), s[4] != baseline, s[4]))
    ]
    return Comparison(tuple(rows), metric, objective, mode, tuple(failures), baseline)


def _natural(name: str | None) -> list[tuple[str, float]]:
    """A key that sorts numbers in names as numbers: 20 comes before 150."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", name or "")
    return [
        (text, float(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    ]


def best_of_each_seed(runs: Iterable[Result]) -> dict[int, Result]:
    """The best finished run of each seed, by validation; among equals that of the smallest strength."""

    def rank(run: Result) -> tuple[float, float]:
        value = run.validation[run.objective]
        return (value if run.mode == "max" else -value, -(run.strength or 0.0))

    seeds = defaultdict(list)
    for run in runs:
        if run.failure is None:
            seeds[run.seed].append(run)
    return {seed: max(seeds[seed], key=rank) for seed in sorted(seeds)}


def _baseline(
    setting: Setting, chosen: dict[Setting, dict[int, Result]], baseline: str
) -> dict[int, Result]:
    """The baseline's runs with the same data and model, and the same ties if there are any such."""
    data, model, ties, others, strategy = setting
    if strategy == baseline:
        return {}
    candidates = [s for s in chosen if (*s[:2], *s[3:]) == (data, model, others, baseline)]
    same_ties = (data, model, ties, others, baseline)
    return chosen[same_ties] if same_ties in chosen else chosen[candidates[0]] if candidates else {}


def _row(
    setting: Setting,
    chosen: dict[int, Result],
    baseline: dict[int, Result],
    runs: list[Result],
    metric: str,
) -> Row:
    pairs = [
        (run.test[metric], baseline[seed].test[metric])
        for seed, run in chosen.items()
        if seed in baseline
    ]
    strengths = [run.strength for run in chosen.values() if run.strength is not None]
    return Row(
        *setting,
        failed=sum(run.failure is not None for run in runs),
        score=estimate([run.test[metric] for run in chosen.values()]),
        difference=estimate([score - base for score, base in pairs]),
        strength=median(strengths) if strengths else None,
        distance=_mean(run.sharing.get("distance") for run in chosen.values()),
        unique=_mean(run.sharing.get("unique") for run in chosen.values()),
        seconds=_mean(run.seconds for run in chosen.values()),
        bytes=_mean(run.sharing.get("bytes") for run in chosen.values()),
        training_bytes=_mean(run.training_bytes for run in chosen.values()),
        runs=tuple(chosen.values()),
        tuned=tuned(chosen.values()),
        tried=tuple(sorted(runs, key=lambda run: (run.seed, str(run.path)))),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _objective(results: list[Result]) -> tuple[str, Literal["min", "max"]]:
    first = results[0]
    for other in results:
        if (other.objective, other.mode) != (first.objective, first.mode):
            raise ValueError(
                f"runs with different objectives cannot be compared: {first.objective} ({first.mode}) in {first.path},"
                f" but {other.objective} ({other.mode}) in {other.path}; name directories with one objective only"
            )
    return first.objective, first.mode


def _check_tuned(key: str, results: Iterable[Result]) -> None:
    if problem := not_to_be_tuned(key):
        raise ValueError(problem)
    known = {
        override.lstrip("+").partition("=")[0]
        for result in results
        for override in result.overrides
    }
    if key not in known:
        raise ValueError(f"tune={key}: no run was started with {key}=...{suggest(key, known)}")


def _check_metric(result: Result, metric: str) -> None:
    if metric not in result.test:
        nearest = get_close_matches(metric, result.test, n=1)
        names = (
            f"did you mean {nearest[0]!r}?"
            if nearest
            else f"it has {', '.join(result.test) or 'none'}"
        )
        raise ValueError(f"no test metric {metric!r} in {result.path}: {names}")
