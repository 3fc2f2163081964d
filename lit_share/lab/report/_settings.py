"""What makes runs different experiments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from lit_share.lab.results import Result

# Overrides of these keys make no other experiment: they have columns of their own, are what is compared or what a
# strategy is tuned by, or change no numbers.
_NO_SETTING = (
    "data",
    "model",
    "ties",
    "regularizer",
    "strength",
    "seed",
    "logger",
    "callbacks",
    "ckpt_path",
    "hydra",
)
COLUMNS = ("data", "model", "ties")


def other_overrides(result: Result) -> tuple[str, ...]:
    """The overrides that make another experiment, such as ``data.n_b=20``, in alphabetical order."""
    kept = []
    for override in result.overrides:
        key = override.partition("=")[0].lstrip("+~")
        group = key.partition(".")[0]
        if key in result.tune:
            continue
        if group not in _NO_SETTING or (group in COLUMNS and key != group):
            kept.append(override)
    return tuple(sorted(kept))


def columns(result: Result) -> dict[str, str | None]:
    """What was chosen for the groups that have a column of their own; `None` if the run is tuned by it."""
    return {name: None if name in result.tune else getattr(result, name) for name in COLUMNS}


def not_to_be_tuned(key: str) -> str | None:
    """Why a key must not be chosen on validation data, or `None` if it may be."""
    reasons = {
        "data": "scores on different data cannot be compared",
        "seed": "that would be choosing the luckiest run",
        "regularizer": "strategies are what is compared",
    }
    reason = reasons.get(key.partition(".")[0])
    return f"tune={key}: {reason}; leave it out" if reason else None


def tuned(results: Iterable[Result]) -> str:
    """What the tuned keys of the chosen runs are, the most frequent first.

    Example:
        >>> from pathlib import Path
        >>> def run(seed, lr):
        ...     return Result(Path(), 1, "finished", "none", seed, "a", "min", overrides=[f"model.lr={lr}"],
        ...                   tune=["model.lr"])
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
        times = [
            f"{value} ({n})" if len(counts) > 1 else value for value, n in counts.most_common()
        ]
        written.append(f"{key}={', '.join(times)}")
    return "; ".join(written)


def setting_of(result: Result) -> dict[str, str]:
    """The experiment that a run belongs to: what was chosen and overridden, by key.

    Example:
        >>> from pathlib import Path
        >>> overrides = ["data=digits", "+data.n_b=20", "seed=3"]
        >>> setting_of(Result(Path(), 1, "finished", "none", 3, "a", "min", data="digits", overrides=overrides))
        {'data': 'digits', 'data.n_b': '20'}
    """
    setting = {name: value for name, value in columns(result).items() if value is not None}
    for override in other_overrides(result):
        key, _, value = override.partition("=")
        setting[key.lstrip("+")] = value
    return setting


def varying(settings: Iterable[dict[str, str]]) -> list[str]:
    """The keys in which settings differ.

    Example:
        >>> varying([{"data": "digits", "data.n_b": "20"}, {"data": "digits", "data.n_b": "50"}, {"data": "digits"}])
        ['data.n_b']
    """
    settings = list(settings)
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def label(setting: dict[str, str], keys: Iterable[str]) -> str:
    """A setting in words: what it has of some keys."""
    return ", ".join(
        f"{key}={setting[key]}" if setting[key] else key for key in keys if key in setting
    )


def number(value: str) -> float | None:
    """A finite number, or `None` if the text is none."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
