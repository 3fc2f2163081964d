"""Say in plain words what a comparison supports."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lit_share.lab.report._choice import FEWEST_SEEDS, Score, choose, contrast_all
from lit_share.lab.report._comparison import Comparison, Row, default_metric
from lit_share.lab.report._sentences import sentences_of
from lit_share.lab.report._settings import label, setting_of, varying
from lit_share.lab.report._words import Words, listed, words_of


class Advice(NamedTuple):
    """The advice for one setting.

    Attributes:
        setting: The data, model and overrides in which settings differ; empty if there is only one.
        sentences: The sentences, with names in backticks.
    """

    setting: str
    sentences: list[str]


def advise(comparison: Comparison) -> list[Advice]:
    """Say which strategy to use, what it is worth, and what cannot be told apart from it.

    Three sentences of each setting say which strategy to use, or that none is worth it; what that
    changes on test data; and which strategies may be as good, with the number of seeds that would
    tell. Others may follow: about a smaller strategy that may be as good, and about missing runs.
    Where nothing can be advised, a sentence says what to add.

    A strategy is better than the baseline if its paired t-interval, widened for the number of
    strategies (Bonferroni), says so: the best of many is often better by chance. Those that are in
    the same way worse than another of these drop out. Between the rest, validation data choose: the
    best, or the smallest within one standard error of it (Breiman, Friedman, Olshen, Stone,
    *Classification and Regression Trees*, 1984) that has at most 90 % of its parameters. The others
    are compared with the chosen one in the same way. With a probability of at least 95 % the truly
    best is the chosen one or one that is not told apart from it, by whatever data it was chosen
    (Hsu, *Multiple Comparisons*, 1996).

    Args:
        comparison: The comparison.

    Returns:
        The advice for each setting, in the order of the rows.

    Example:
        >>> from pathlib import Path
        >>> from lit_share.lab.report import compare
        >>> from lit_share.lab.results import Result
        >>> def run(strategy, seed, acc):
        ...     head = (Path(), 1, "finished", strategy, seed, "val/acc", "max")
        ...     return Result(*head, validation={"val/acc": acc}, test={"test/acc": acc})
        >>> none = [run("none", seed, acc) for seed, acc in enumerate([0.5, 0.6, 0.7])]
        >>> tied = [run("hard_tie", seed, acc) for seed, acc in enumerate([0.61, 0.7, 0.82])]
        >>> for sentence in advise(compare([*none, *tied]))[0].sentences:
        ...     print(sentence)
        Use `hard_tie`: it is better than `none` on test data.
        Compared with `none`, it raises `test/acc` by 11.0 ± 2.5 points (95 % interval of 3 seeds).
        There is nothing to tell it from: no other strategy was compared with `none`.
    """
    groups: dict[tuple[str | None, str | None, str], list[Row]] = defaultdict(list)
    # Different ties are alternatives for the same models, unlike different data.
    for row in comparison.rows:
        groups[row.data, row.model, row.overrides].append(row)
    settings = [setting_of(rows[0].tried[0]) for rows in groups.values()]
    keys = [key for key in varying(settings) if key != "ties"]
    found = []
    for setting, rows in zip(settings, groups.values(), strict=True):
        title = label(setting, keys)
        if len(groups) > 1:
            title = title or "without overrides"
        found.append(Advice(title, _advise(comparison, rows)))
    return found


def _advise(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    words = words_of(comparison, rows)
    baseline = [row for row in rows if row.strategy == comparison.baseline and row.runs]
    others = [row for row in rows if row.strategy != comparison.baseline]
    finished = [row for row in others if row.runs]
    reason = _obstacle(comparison, baseline, finished, words)
    if reason is not None:
        return [f"No advice: {reason}.", *_failed(rows, words)]
    test = _score(comparison, comparison.metric, "test")
    contrasts = contrast_all(finished, lambda row: row.control, test)
    if not contrasts:
        reason = (
            f"no strategy has {FEWEST_SEEDS} seeds in common with {words.baseline}, and fewer do "
            "not tell a strategy from luck; run more, as in seed=0,1,2,3,4"
        )
        diverged = [row for row in finished if not _is_finite(row, words)]
        return [f"No advice: {reason}.", *_unjudged(diverged, words), *_failed(rows, words)]
    choice = choose(baseline[0], contrasts, test, _validation(comparison, finished))
    judged = [choice.row, *(other.row for other in choice.others)]
    left = [row for row in others if not any(row is known for known in judged)]
    return [*sentences_of(choice, words), *_unjudged(left, words), *_failed(rows, words)]


def _obstacle(
    comparison: Comparison, baseline: Sequence[Row], others: Sequence[Row], words: Words
) -> str | None:
    """Return why nothing can be advised, and what to do about it; `None` if nothing is wrong."""
    if comparison.better is None:
        return (
            f"it is not known whether a large or a small `{comparison.metric}` is better, because "
            f"runs were chosen by `{comparison.objective}`; compare by "
            f"`{default_metric(comparison.objective)}`"
        )
    if not baseline and not others:
        return "no run has finished"
    if not baseline:
        return (
            f"no run of {words.baseline} has finished, so that nothing says what a strategy is "
            "worth; run it with the same seeds, or name a strategy to compare with by --baseline"
        )
    if not all(_is_finite(row, words) for row in baseline):
        return f"a score of {words.baseline} is not finite; repeat that run"
    if not others:
        return f"only {words.baseline} has finished; run strategies with the same seeds"
    return None


def _score(comparison: Comparison, name: str, split: Literal["validation", "test"]) -> Score:
    """Return a metric of runs, with its sign changed if a small one is better."""
    sign = 1
    if comparison.better == "min":
        sign = -1
    return lambda run: sign * getattr(run, split)[name]


def _validation(comparison: Comparison, rows: Sequence[Row]) -> Score:
    """Return the metric's own validation score if it is finite in all runs, else the objective."""
    runs = [run for row in rows for run in (*row.runs, *row.control)]
    names = [name for name in runs[0].validation if default_metric(name) == comparison.metric]
    # Only the objective is known to be finite.
    same = [n for n in names if all(math.isfinite(r.validation.get(n, math.nan)) for r in runs)]
    name = comparison.objective
    # The strengths were chosen by the objective, but strategies are by what is compared.
    if same and name not in same:
        name = same[0]
    return _score(comparison, name, "validation")


def _is_finite(row: Row, words: Words) -> bool:
    return all(math.isfinite(run.test[words.metric]) for run in row.runs)


def _unjudged(rows: Sequence[Row], words: Words) -> list[str]:
    if not rows:
        return []
    names = []
    for row in rows:
        reason = f"fewer than {FEWEST_SEEDS} common seeds"
        if not row.runs:
            reason = "no run has finished"
        elif not _is_finite(row, words):
            reason = "a score is not finite"
        names.append(f"{words.name(row)} ({reason})")
    return [f"Not judged: {listed(names)}."]


def _failed(rows: Sequence[Row], words: Words) -> list[str]:
    failed = [row for row in rows if row.failed]
    if not failed:
        return []
    names = listed([f"{row.failed} of {words.name(row)}" for row in failed])
    # Means over the seeds that are left may be too good.
    left_out = f"Failed runs are left out ({names})"
    return [
        f"{left_out}: repeat them before you rely on the means, as hard seeds may fail more often."
    ]
