"""Render a comparison as a self-contained HTML page, which makes no network requests."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from lit_share.files import open_regular
from lit_share.lab.plots import OKABE_ITO, Style, styles
from lit_share.lab.report._advice import advise
from lit_share.lab.report._comparison import ARROWS, Comparison, Row, Scores, cells
from lit_share.lab.report._estimate import UNDEFINED
from lit_share.lab.report._sections import sections
from lit_share.lab.report._settings import label, setting_of, varying
from lit_share.lab.results import Result

_FILES = Path(__file__).parent / "page"
_CONFIG = "config.yaml"


@dataclass(frozen=True)
class _OtherScore:
    """A metric of a row as the template writes it."""

    score: str
    difference: str
    arrow: str


@dataclass(frozen=True)
class _TableRow:
    """A row of the table as the template writes it."""

    row: Row
    style: Style
    setting: Sequence[str]
    cells: dict[str, str]
    direction: str
    meaning: str
    others: dict[str, _OtherScore]
    title: str
    config: str | None


def page(
    comparison: Comparison, directory: str | Path = ".", title: str = "Comparison of strategies"
) -> str:
    """Render the page of a comparison as HTML.

    All names of users (strategies, overrides, errors, paths) are escaped. In addition, the page's
    policy allows only its own scripts, by their hashes, and no requests.

    Args:
        comparison: The comparison.
        directory: The folder of the page, which paths of runs are relative to.
        title: The page's title.

    Example:
        >>> from lit_share.lab.report import compare
        >>> from lit_share.lab.results import Result
        >>> metrics = {"validation": {"val": 1.0}, "test": {"test": 0.75}}
        >>> path = Path("0/result.json")
        >>> run = Result(path, 1, "finished", "<b>", 0, "val", "max", **metrics)
        >>> html = page(compare([run]))
        >>> "&lt;b&gt;" in html, "<b>" in html
        (True, False)
    """
    look = styles([row.strategy for row in comparison.rows], comparison.baseline)
    settings = [setting_of(row.tried[0]) for row in comparison.rows]
    keys = varying(settings)
    common = {key: value for key, value in settings[0].items() if key not in keys}
    environment = Environment(
        loader=FileSystemLoader(_FILES),
        autoescape=True,
        # By default, a misspelt name in the template would be written as nothing.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda figure: embedded(figure.to_json())
    environment.filters["relative"] = lambda path: _relative(path, directory)
    environment.filters["quoted_as_code"] = _quoted_as_code
    environment.filters["shell"] = shlex.join
    environment.filters["ink"] = _ink
    scripts = [_source(get_plotlyjs()), _source((_FILES / "page.js").read_text(encoding="utf-8"))]
    pairs = zip(comparison.rows, settings, strict=True)
    return environment.get_template("page.html").render(
        title=title,
        comparison=comparison,
        advice=advise(comparison),
        rows=[_table_row(comparison, row, setting, keys, look) for row, setting in pairs],
        metrics=list(dict.fromkeys([*comparison.of_all_models, *comparison.metrics])),
        arrow_meaning=_arrow_meaning(comparison),
        made=_made(comparison),
        keys=keys,
        common=label(common, common),
        facts=_facts(comparison),
        look=look,
        sections=sections(comparison, look),
        css=Markup((_FILES / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=Markup(" ".join(map(_hash, scripts))),
        undefined=UNDEFINED,
    )


def embedded(json: str) -> Markup:
    r"""Escape JSON for a script element, so that it can neither end the element nor be a comment.

    Example:
        >>> print(embedded('["</script>"]'))
        ["\u003c/script\u003e"]
    """
    # JSON allows the separators U+2028 and U+2029 in strings, but older scripts do not.
    escapes = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    return Markup(json.translate(escapes))


def _quoted_as_code(text: str) -> Markup:
    # The text is escaped first, so that names can add no tags.
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _table_row(
    comparison: Comparison,
    row: Row,
    setting: dict[str, str],
    keys: Sequence[str],
    look: dict[str, Style],
) -> _TableRow:
    names = ("n", "failed", "score", "difference", "strength", "distance", "unique", "seconds")
    # Only a difference whose interval excludes 0 has a direction.
    direction = Scores(row.score, row.difference).direction
    meaning = ""
    if direction and comparison.better is not None:
        is_better = (direction == "above") == (comparison.better == "max")
        meaning = "better" if is_better else "worse"
    values = [setting.get(key, UNDEFINED) for key in keys]
    title = ", ".join(filter(None, [row.strategy, label(setting, keys)]))
    config = _config(row.runs[0]) if row.runs else None
    written = dict(zip(names, cells(row), strict=True))
    others = {name: _other(own) for name, own in row.scores.items()}
    style = look[row.strategy]
    return _TableRow(row, style, values, written, direction, meaning, others, title, config)


def _other(scores: Scores) -> _OtherScore:
    mean, difference = (str(found or UNDEFINED) for found in scores)
    return _OtherScore(mean, difference, ARROWS[scores.direction])


def _arrow_meaning(comparison: Comparison) -> str:
    """Say in which direction the metric improves."""
    if comparison.better is None:
        return f"It is not known whether a large or a small {comparison.metric} is better."
    words = {"min": ("Less", "↓"), "max": ("More", "↑")}
    amount, arrow = words[comparison.better]
    return f"{amount} {comparison.metric} is better, so {arrow} is an improvement."


def _ink(color: str) -> str:
    """Return a colour for text of the page, which is light at night where black is drawn."""
    if color == OKABE_ITO[0]:
        return "var(--ink)"
    return color


def _made(comparison: Comparison) -> str:
    """Say when the page and its runs were made, and with which versions and commits."""
    runs = [run for row in comparison.rows for run in row.tried]
    text = f"Made on {date.today().isoformat()} with {_listed_versions([_own_version()])}."
    days = sorted({run.started.partition("T")[0] for run in runs if run.started is not None})
    if not days:
        return text
    text += f" Runs of {' to '.join(dict.fromkeys([days[0], days[-1]]))}"
    if versions := _listed_versions(run.versions for run in runs):
        text += f" with {versions}"
    commits = sorted({run.commit for run in runs if run.commit is not None})
    if commits:
        text += f", commit {', '.join(commits)}"
    return f"{text}."


def _own_version() -> dict[str, str]:
    try:
        return {"lit-share": version("lit-share")}
    except PackageNotFoundError:
        return {"lit-share": ""}


def _listed_versions(versions: Iterable[Mapping[str, str]]) -> str:
    """List the versions of each package.

    Example:
        >>> _listed_versions([{"torch": "2.12"}, {"torch": "2.13", "python": "3.11"}])
        'torch 2.12 and 2.13, python 3.11'
    """
    found: dict[str, dict[str, None]] = {}
    for own in versions:
        for package, number in own.items():
            found.setdefault(package, {})[number] = None
    return ", ".join(f"{name} {' and '.join(numbers)}".strip() for name, numbers in found.items())


def _config(run: Result) -> str | None:
    # The result may have been copied without its folder, or with something else of the name.
    try:
        with open_regular(run.path.parent / _CONFIG) as file:
            return file.read().decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _facts(comparison: Comparison) -> list[tuple[int, str]]:
    runs = [run for row in comparison.rows for run in row.tried]
    settings = {(row.data, row.model, row.ties, row.overrides) for row in comparison.rows}
    strategies = {row.strategy for row in comparison.rows}
    counts = [
        (len(runs), ("runs", "run")),
        (len(strategies), ("strategies", "strategy")),
        (len({run.seed for run in runs}), ("seeds", "seed")),
        (len(settings), ("settings", "setting")),
    ]
    facts = [(n, words[n == 1]) for n, words in counts]
    if comparison.pruned:
        facts.append((comparison.pruned, "pruned"))
    return [*facts, (len(comparison.failures), "failed")]


def _relative(path: Path, directory: str | Path) -> str:
    return os.path.relpath(path.parent, directory)


def _source(script: str) -> str:
    # Browsers hash the text between the tags after normalising line ends to line feeds.
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    # Only an escaped end tag may stand in a script, and in a JavaScript string `<\/` is `</`.
    return re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
