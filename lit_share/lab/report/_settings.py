"""Tell apart runs that are different experiments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import chain

from lit_share.lab.results import Result

# Overrides of these keys make no other experiment: the keys have separate columns, are compared or
# tuned, or change no numbers.
COLUMNS = ("data", "model", "ties")
_COMPARED = ("regularizer", "strength", "seed")
_NO_SETTING = (*COLUMNS, *_COMPARED, "logger", "callbacks", "ckpt_path", "hydra")


def other_overrides(result: Result) -> tuple[str, ...]:
    """Return the overrides that make another experiment, such as ``data.n_b=20``, sorted."""
    kept = []
    for override in result.overrides:
        key = override.partition("=")[0].lstrip("+~")
        group = key.partition(".")[0]
        if key in result.tune or group == "ties":
            continue
        # A choice like data=digits is in a column, but data.n_b=20 is not.
        if group not in _NO_SETTING or (group in COLUMNS and key != group):
            kept.append(override)
    return tuple(sorted(kept))


def columns(result: Result) -> dict[str, str | None]:
    """Return the choices for the groups that have a column; `None` for tuned groups.

    Overrides of the keys of ties belong to the ties: others of them are alternatives for the same
    models, which have one baseline.

    Example:
        >>> from pathlib import Path
        >>> head = (Path(), 1, "finished", "none", 3, "a", "min")
        >>> columns(Result(*head, ties="all", overrides=["ties.exclude=[*.bias]"]))
        {'data': None, 'model': None, 'ties': 'all ties.exclude=[*.bias]'}
    """
    chosen: dict[str, str | None] = dict.fromkeys(COLUMNS)
    # Runs with different values of a tuned key compete for the same row.
    for name in COLUMNS:
        if name not in result.tune:
            chosen[name] = getattr(result, name)
    own = [o.lstrip("+") for o in result.overrides if o.lstrip("+~").startswith("ties.")]
    own = [o for o in own if o.partition("=")[0].lstrip("~") not in result.tune]
    if own:
        chosen["ties"] = " ".join(filter(None, (chosen["ties"], *sorted(own))))
    return chosen


def not_to_be_tuned(key: str) -> str | None:
    """Return the reason why a key must not be chosen on validation data; `None` if it may be."""
    reasons = {
        "data": "scores on different data cannot be compared",
        "seed": "that would be choosing the luckiest run",
        "regularizer": "strategies are what is compared",
    }
    reason = reasons.get(key.partition(".")[0])
    if reason is None:
        return None
    return f"tune={key}: {reason}; leave it out"


def tuned(results: Iterable[Result]) -> str:
    """Format the tuned keys of the chosen runs, the most frequent values first.

    Example:
        >>> from pathlib import Path
        >>> def run(seed, lr):
        ...     overrides, tune = [f"model.lr={lr}"], ["model.lr"]
        ...     head = (Path(), 1, "finished", "none", seed, "a", "min")
        ...     return Result(*head, overrides=overrides, tune=tune)
        >>> tuned([run(0, 0.1), run(1, 0.01), run(2, 0.01)])
        'model.lr=0.01 (2), 0.1 (1)'
    """
    chosen: dict[str, Counter[str]] = {}
    for result in results:
        for override in result.overrides:
            key, _, value = override.lstrip("+").partition("=")
            if key in result.tune:
                chosen.setdefault(key, Counter())[value] += 1
    written = []
    for key, counts in chosen.items():
        times = [f"{value} ({n})" for value, n in counts.most_common()]
        # If all runs have the same value, its number of runs is in another column.
        if len(counts) == 1:
            times = list(counts)
        written.append(f"{key}={', '.join(times)}")
    return "; ".join(written)


def setting_of(result: Result) -> dict[str, str]:
    """Return the choices and overrides, by key, that define a run's experiment.

    Example:
        >>> from pathlib import Path
        >>> setting = {"data": "digits", "overrides": ["data=digits", "+data.n_b=20", "seed=3"]}
        >>> setting_of(Result(Path(), 1, "finished", "none", 3, "a", "min", **setting))
        {'data': 'digits', 'data.n_b': '20'}
    """
    setting = {name: value for name, value in columns(result).items() if value is not None}
    for override in other_overrides(result):
        key, _, value = override.partition("=")
        setting[key.lstrip("+")] = value
    return setting


def varying(settings: Iterable[dict[str, str]]) -> list[str]:
    """Return the keys in which settings differ.

    Example:
        >>> varying([{"data": "digits", "data.n_b": "20"}, {"data": "digits"}])
        ['data.n_b']
    """
    settings = list(settings)
    # A dict keeps the order, where a set would not.
    keys = dict.fromkeys(chain.from_iterable(settings))
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def label(setting: dict[str, str], keys: Iterable[str]) -> str:
    """Format those keys that a setting has."""
    # An override without a value, such as ~key, has no "=".
    texts = {key: "=".join(filter(None, (key, value))) for key, value in setting.items()}
    return ", ".join(texts[key] for key in keys if key in texts)


def number(value: str) -> float | None:
    """Parse a finite number; return `None` for any other text."""
    try:
        found = float(value)
    except ValueError:
        return None
    # An axis can show neither NaN nor infinity.
    if not math.isfinite(found):
        return None
    return found
