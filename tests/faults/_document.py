"""The table as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ._row import STAGES, Row

HEAD = """\
# Error reference

Every row is tested by `tests/faults`: it produces the cause, and compares the type of the error,
its full text, and when it is raised. It also tests that nothing is left behind: weights are
unchanged unless training has begun; existing files are unchanged; no hook, process, thread,
temporary or incomplete file remains.

`…` stands for any text, `DIR` for a folder. `pair` has two networks `a` and `b` of two linear
layers each; `ties` is `Ties("a.*", "b.*")`; `one` is `Ties("a.0.weight")`; `soft` and `exact` are
penalties; `fit(model, *callbacks)` is `Trainer(callbacks=[*callbacks]).fit(model, ...)`.

`pytest tests/faults -k page --write-docs` generates this page.
"""


def page(sections: Mapping[str, Sequence[Row]]) -> str:
    parts = [HEAD]
    for section, rows in sections.items():
        parts.append(f"\n## {section[0].upper()}{section[1:]}\n\n| cause | raised | error |\n")
        parts.append("|---|---|---|\n")
        parts += [_line(row) for row in sorted(rows, key=lambda row: STAGES.index(row.when))]
    return "".join(parts)


def _line(row: Row) -> str:
    did = _cell(row.what) if row.do is not None else _code(row.what)
    return f"| {did} | {row.when} | **{row.error}**: {_cell(row.message)} |\n"


def _code(text: str) -> str:
    return "<br>".join(f"`{line}`" for line in text.replace("|", "\\|").splitlines())


def _cell(text: str) -> str:
    """Text of which Markdown makes nothing else."""
    for character in "\\|*_[]<>`$":
        text = text.replace(character, f"\\{character}")
    return "<br>".join(
        line.replace("\t", " ").strip() for line in text.splitlines() if line.strip()
    )
