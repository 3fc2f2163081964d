"""Write JSON files that are complete or absent."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write a file atomically: a killed process or a full disk leaves the old file unchanged."""
    unfinished = path.with_name(f"{path.name}.tmp")
    text = json.dumps(content, indent=2) + "\n"
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        # The user knows the file's name, but not the temporary one.
        raise OSError(error.errno, error.strerror, str(path)) from None
