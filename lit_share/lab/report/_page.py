"""The page: a comparison as one HTML file, which needs nothing else and asks nobody."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lit_share.lab.plots import Style, styles
from lit_share.lab.report._charts import sections
from lit_share.lab.report._comparison import Comparison, Row, cells
from lit_share.lab.report._estimate import UNDEFINED
from lit_share.lab.report._settings import label, setting_of, varying
from lit_share.lab.results import Result

_FILES = Path(__file__).parent / "page"
_CONFIG = "config.yaml"


@dataclass(frozen=True)
class _TableRow:
    """A row with what the template writes of it."""

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
    """Make the page of a comparison.

    Everything that users name (strategies, overrides, errors, paths) is escaped, and besides, the page allows no script
    but its own, by their hashes, and no address to be loaded.

    Args:
        comparison: What is shown.
        directory: Where the page will lie; the paths of runs are relative to it.
        title: The page's title.

    Returns:
        HTML.

    Example:
        >>> from lit_share.lab.report import compare
        >>> from lit_share.lab.results import Result
        >>> run = Result(Path("0/result.json"), 1, "finished", "<b>", 0, "val", "max", validation={"val": 1.0},
        ...              test={"test": 0.75})
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
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda figure: embedded(figure.to_json())
    environment.filters["relative"] = lambda path: _relative(path, directory)
    scripts = [_source(get_plotlyjs()), _source((_FILES / "page.js").read_text(encoding="utf-8"))]
    return environment.get_template("page.html").render(
        title=title,
        comparison=comparison,
        rows=[
            _table_row(row, setting, keys, look)
            for row, setting in zip(comparison.rows, settings, strict=True)
        ],
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
    r"""JSON that can stand in a script element: what could end it, or begin a comment, is written as an escape.

    Example:
        >>> print(embedded('["</script>"]'))
        ["\u003c/script\u003e"]
    """
    escapes = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    return Markup(json.translate(escapes))


def _table_row(
    row: Row, setting: dict[str, str], keys: Sequence[str], look: dict[str, Style]
) -> _TableRow:
    names = ("n", "failed", "score", "difference", "strength", "distance", "unique", "seconds")
    difference = row.difference
    direction = ""
    if difference is not None and difference.low is not None and difference.high is not None:
        direction = "above" if difference.low > 0 else "below" if difference.high < 0 else ""
    values = [setting.get(key, UNDEFINED) for key in keys]
    title = ", ".join(filter(None, [row.strategy, label(setting, keys)]))
    config = _config(row.runs[0]) if row.runs else None
    written = dict(zip(names, cells(row), strict=True))
    return _TableRow(row, look[row.strategy], values, written, direction, title, config)


def _config(run: Result) -> str | None:
    """The config beside a run's result, if it is still there."""
    try:
        return (run.path.parent / _CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _facts(comparison: Comparison) -> list[tuple[int, str]]:
    runs = [run for row in comparison.rows for run in row.tried]
    counts = [
        (len(runs), "run"),
        (len({row.strategy for row in comparison.rows}), "strategy"),
        (len({run.seed for run in runs}), "seed"),
        (
            len({(row.data, row.model, row.ties, row.overrides) for row in comparison.rows}),
            "setting",
        ),
    ]
    plural = {"strategy": "strategies"}
    facts = [(n, word if n == 1 else plural.get(word, f"{word}s")) for n, word in counts]
    return [*facts, (len(comparison.failures), "failed")]


def _relative(path: Path, directory: str | Path) -> str:
    return os.path.relpath(path.parent, directory)


def _source(script: str) -> str:
    # A browser hashes what stands between the tags, after it has made every line end a line feed.
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
