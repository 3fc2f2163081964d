"""What a run was made with: its time, versions and commit."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("lit-share", "torch", "lightning")


def provenance() -> dict[str, Any]:
    """Return the fields ``started``, ``versions`` and ``commit`` of a `Result`."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"started": started, "versions": _versions(), "commit": _commit(Path.cwd())}


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.partition(" ")[0]}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            # A clone that is only on the path has no version.
            continue
    return versions


@cache
def _commit(folder: Path) -> str | None:
    """Return the commit of a folder, with ``-dirty`` if files have changed; `None` without git."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=folder, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
