"""The table as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ._row import STAGES, Row

HEAD = """\
# What goes wrong, and what you hear

Every row is a test: `tests/faults` does what the first column says, and compares the error, all of its text, and
the stage in which it comes. It also checks that nothing is lost or left: weights are as they were unless training has
begun, no hook, process, thread, temporary file or half a file stays, and files that were there are as they were.

`…` stands for any text, `DIR` for a folder. `pair` has two networks `a` and `b` of two linear layers each, `ties` are
`Ties("a.*", "b.*")`, `one` is `Ties("a.0.weight")`; `soft` and `exact` are penalties, and `fit(model, *callbacks)` is
`Trainer(callbacks=[*callbacks]).fit(model, ...)`.

This page is made by `pytest tests/faults -k page --write-docs`.
"""


def page(sections: Mapping[str, Sequence[Row]]) -> str:
    parts = [HEAD]
    for section, rows in sections.items():
        parts.append(
            f"\n## {section[0].upper()}{section[1:]}\n\n| what you did | when you hear of it | what you hear |\n"
        )
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
