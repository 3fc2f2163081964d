"""`NEWEST.md` in an include of a folder of dated reports is the newest of them."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx


def _name_newest(app: Sphinx, page: str, source: list[str]) -> None:
    def newest(found: re.Match[str]) -> str:
        folder = (app.srcdir / page).parent / found[1]
        return found[1] + max(path.name for path in Path(folder).glob("*.md"))

    source[0] = re.sub(r"(?<=\{include\} )(\S*/)NEWEST\.md", newest, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Look into every page."""
    app.connect("source-read", _name_newest)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
