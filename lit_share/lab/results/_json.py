"""Write JSON files that are complete or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_share.files import write_text


def write_json(path: Path, content: Any) -> None:
    """Write a file atomically: a killed process or a full disk leaves the old file unchanged."""
    write_text(path, json.dumps(content, indent=2) + "\n")
