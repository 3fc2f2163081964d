"""The table: all rows, by section."""

from __future__ import annotations

from . import _configs, _library, _system
from ._row import Row

SECTIONS: dict[str, list[Row]] = _library.SECTIONS | _configs.SECTIONS | _system.SECTIONS
ROWS = [row for rows in SECTIONS.values() for row in rows]
