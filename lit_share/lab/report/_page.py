"""Render a comparison as a self-contained HTML page, which makes no network requests."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from lit_share.lab.plots import Style, styles
from lit_share.lab.report._advice import advise
from lit_share.lab.report._comparison import Comparison, Row, cells
from lit_share.lab.report._estimate import UNDEFINED
from lit_share.lab.report._sections import sections
from lit_share.lab.report._settings import label, setting_of, varying
from lit_share.lab.results import Result

_FILES = Path(__file__).parent / "page"
_CONFIG = "config.yaml"


@dataclass(frozen=True)
class _TableRow:
    """A row of the table as the template writes it."""

    row: Row
    style: Style
    setting: Sequence[str]
    cells: dict[str, str]
    direction: str
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
    scripts = [_source(get_plotlyjs()), _source((_FILES / "page.js").read_text(encoding="utf-8"))]
    pairs = zip(comparison.rows, settings, strict=True)
    return environment.get_template("page.html").render(
        title=title,
        comparison=comparison,
        advice=advise(comparison),
        rows=[_table_row(row, setting, keys, look) for row, setting in pairs],
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
    row: Row, setting: dict[str, str], keys: Sequence[str], look: dict[str, Style]
) -> _TableRow:
    names = ("n", "failed", "score", "difference", "strength", "distance", "unique", "seconds")
    difference = row.difference
    direction = ""
    # Only a difference whose interval excludes 0 has a direction.
    if difference is not None and difference.low is not None and difference.high is not None:
        if difference.low > 0:
            direction = "above"
        elif difference.high < 0:
            direction = "below"
    values = [setting.get(key, UNDEFINED) for key in keys]
    title = ", ".join(filter(None, [row.strategy, label(setting, keys)]))
    config = _config(row.runs[0]) if row.runs else None
    written = dict(zip(names, cells(row), strict=True))
    return _TableRow(row, look[row.strategy], values, written, direction, title, config)


def _config(run: Result) -> str | None:
    # The result may have been copied without its folder.
    try:
        return (run.path.parent / _CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
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
