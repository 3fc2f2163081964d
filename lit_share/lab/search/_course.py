"""How the objective goes, in a file beside the result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lit_share.lab.results import write_json

COURSE_FILE = "course.json"


@dataclass
class Course:
    """What a search knows of a run that is training.

    Attributes:
        best: The best objective on validation data until each validation.
        is_pruned: Whether the run was stopped because it is not promising.
    """

    # A file, because processes that Lightning spawns return no attributes of their callbacks.
    best: list[float] = field(default_factory=list)
    is_pruned: bool = False

    @classmethod
    def read(cls, folder: Path) -> Course:
        """Read the course of the run in a folder; it is empty if there is no such file."""
        file = folder / COURSE_FILE
        # A run that was killed before its first validation has none.
        if not file.exists():
            return cls()
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write the course to the folder of its run."""
        write_json(folder / COURSE_FILE, asdict(self))
