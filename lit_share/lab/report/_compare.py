"""Compare strategies over seeds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain
from statistics import fmean, median
from typing import Literal, TypeAlias

from lit_share.lab.report._comparison import Comparison, Row, Scores, default_metric
from lit_share.lab.report._estimate import estimate
from lit_share.lab.report._settings import columns, not_to_be_tuned, other_overrides, tuned
from lit_share.lab.results import Result
from lit_share.text import suggest

# A setting consists of data, model, ties, other overrides and the strategy.
Setting: TypeAlias = tuple[str | None, str | None, str | None, str, str]


def compare(
    results: Iterable[Result],
    metric: str | None = None,
    baseline: str = "none",
    tune: Collection[str] = (),
) -> Comparison:
    """Compare strategies by a test metric, with strengths chosen on validation data.

    For each strategy and seed, the run with the best objective on validation data is chosen among
    those of all strengths and other tuned keys; ties go to the smallest strength. Test metrics
    choose nothing, and runs that a search has pruned are not chosen. Strategies are compared over
    seeds, and with the baseline seed by seed, because runs with the same seed have the same data
    and initial weights. A run has failed if it ended with an error or if its objective is not
    finite. Failures of earlier commands in the same sweep's directory are listed, but are in no row
    unless there are only failures.

    Args:
        results: The results of `read_results`. Different data, models, ties and overrides other
            than strategy, strength and seed are compared separately, but need the same objective.
            The baseline of the same ties is used, or else the baseline of any ties.
        metric: Name of the test metric; by default the objective's name with `test` in place of
            `val`.
        baseline: The strategy that the others are compared with.
        tune: Keys that are chosen on validation data, such as `ties`, besides those in the runs'
            configs.

    Returns:
        The comparison, which Rich can print.

    Raises:
        ValueError: If there are no results, or none of the baseline, if objectives differ, if a
            finished run lacks the metric, or if no run was started with a key to tune.

    Example:
        >>> from pathlib import Path
        >>> from lit_share.lab.results import Result
        >>> def run(strategy, strength, val, test):
        ...     metrics = {"validation": {"val/acc": val}, "test": {"test/acc": test}}
        ...     head = (Path(), 1, "finished", strategy, 0, "val/acc", "max")
        ...     return Result(*head, strength=strength, **metrics)
        >>> l2 = [run("l2", 0.1, 0.9, 0.75), run("l2", 1.0, 0.8, 0.99)]
        >>> for row in compare([run("none", None, 0.7, 0.70), *l2]).rows:
        ...     print(row.strategy, row.strength, row.score.mean)
        none None 0.7
        l2 0.1 0.75
    """
    results = [replace(result, tune=[*result.tune, *tune]) for result in results]
    pruned = sum(result.status == "pruned" for result in results)
    results = [result for result in results if result.status != "pruned"]
    if not results:
        raise ValueError("there are no results to compare")
    failures = [result for result in results if result.failure is not None]
    # A failure of an earlier command may be of a misspelt override, which is no experiment.
    results = [result for result in results if not (result.earlier and result.failure)] or results
    for key in tune:
        _check_tuned(key, results)
    strategies = {result.strategy for result in results}
    # "none" is the default, so comparisons without a baseline are allowed.
    if baseline not in {*strategies, "none"}:
        known = ", ".join(sorted(strategies))
        raise ValueError(f"no run of the baseline {baseline!r}: there are {known}")
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
    rows = []
    # The baseline is the first row of its table.
    for setting in sorted(groups, key=lambda s: (*map(_natural, s[:4]), s[4] != baseline, s[4])):
        compared = _baseline(setting, chosen, baseline)
        rows.append(_row(setting, chosen[setting], compared, groups[setting], metric))
    return Comparison(tuple(rows), metric, objective, mode, tuple(failures), baseline, pruned)


def _natural(name: str | None) -> list[tuple[str, float]]:
    """Return a key that sorts names by the numbers in them: 20 comes before 150."""
    texts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", name or "")
    # Texts and numbers alternate, and a text is last.
    numbers = map(float, [*texts[1::2], "0"])
    return list(zip(texts[::2], numbers, strict=True))


def best_of_each_seed(runs: Iterable[Result]) -> dict[int, Result]:
    """Return each seed's best finished run on validation data, of the smallest such strength."""

    def rank(run: Result) -> tuple[float, float]:
        value = run.validation[run.objective]
        if run.mode == "min":
            value = -value
        # Among equally good runs, the weakest penalty changes training least.
        return value, -(run.strength or 0.0)

    seeds = defaultdict(list)
    for run in runs:
        if run.failure is None:
            seeds[run.seed].append(run)
    return {seed: max(seeds[seed], key=rank) for seed in sorted(seeds)}


def _baseline(
    setting: Setting, chosen: dict[Setting, dict[int, Result]], baseline: str
) -> dict[int, Result]:
    """Return the baseline's runs by seed, same ties if possible; ``{}`` for itself or if none."""
    data, model, ties, others, strategy = setting
    if strategy == baseline:
        return {}
    same_ties = (data, model, ties, others, baseline)
    if same_ties in chosen:
        return chosen[same_ties]
    # The strategy `none` does not depend on ties, so it is usually run once.
    for candidate, runs in chosen.items():
        if (*candidate[:2], *candidate[3:]) == (data, model, others, baseline):
            return runs
    return {}


def _row(
    setting: Setting,
    chosen: dict[int, Result],
    baseline: dict[int, Result],
    runs: list[Result],
    metric: str,
) -> Row:
    # Within a seed, data and initial weights are equal, so differences vary less than scores.
    common = [seed for seed in chosen if seed in baseline]
    differences = [chosen[seed].test[metric] - baseline[seed].test[metric] for seed in common]
    strengths = [run.strength for run in chosen.values() if run.strength is not None]
    return Row(
        *setting,
        failed=sum(run.failure is not None for run in runs),
        score=estimate([run.test[metric] for run in chosen.values()]),
        difference=estimate(differences),
        strength=median(strengths) if strengths else None,
        distance=_mean(run.sharing.get("distance") for run in chosen.values()),
        unique=_mean(run.sharing.get("unique") for run in chosen.values()),
        seconds=_mean(run.seconds for run in chosen.values()),
        bytes=_mean(run.file_bytes for run in chosen.values()),
        training_bytes=_mean(run.training_bytes for run in chosen.values()),
        runs=tuple(chosen.values()),
        tuned=tuned(chosen.values()),
        tried=tuple(sorted(runs, key=lambda run: (run.seed, str(run.path)))),
        control=tuple(baseline.values()),
        scores=_scores(chosen, baseline),
    )


def _scores(chosen: dict[int, Result], baseline: dict[int, Result]) -> dict[str, Scores]:
    """Return the estimates of all test metrics that all runs have."""
    runs = [*chosen.values()]
    found: dict[str, Scores] = {}
    for name in runs[0].test if runs else ():
        if not all(name in run.test for run in runs):
            continue
        pairs = [(run, baseline[seed]) for seed, run in chosen.items() if seed in baseline]
        known = [(run.test[name], other.test[name]) for run, other in pairs if name in other.test]
        difference = estimate([score - other for score, other in known])
        found[name] = Scores(estimate([run.test[name] for run in runs]), difference)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _objective(results: list[Result]) -> tuple[str, Literal["min", "max"]]:
    first = results[0]
    for other in results:
        if (other.objective, other.mode) != (first.objective, first.mode):
            raise ValueError(
                f"runs with different objectives cannot be compared: {first.objective} "
                f"({first.mode}) in {first.path}, but {other.objective} ({other.mode}) in "
                f"{other.path}; name directories with one objective only"
            )
    return first.objective, first.mode


def _check_tuned(key: str, results: Iterable[Result]) -> None:
    if problem := not_to_be_tuned(key):
        raise ValueError(problem)
    overrides = chain.from_iterable(result.overrides for result in results)
    # Hydra's + and ++ add a key, but are no part of it.
    known = {override.lstrip("+").partition("=")[0] for override in overrides}
    if key not in known:
        raise ValueError(f"tune={key}: no run was started with {key}=...{suggest(key, known)}")


def _check_metric(result: Result, metric: str) -> None:
    if metric not in result.test:
        hint = f"it has {', '.join(result.test) or 'none'}"
        for nearest in get_close_matches(metric, result.test, n=1):
            hint = f"did you mean {nearest!r}?"
        raise ValueError(f"no test metric {metric!r} in {result.path}: {hint}")
