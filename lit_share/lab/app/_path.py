"""The path of strengths that a training has walked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_share import penalties
from lit_share.callbacks import PATH_FILE, Regularize
from lit_share.lab.app.build import Job


def walked_path(job: Job) -> dict[str, Any] | None:
    """Return the knots of a trained job's path and the choice; `None` if it walked none.

    Returns:
        What `PathWalk` wrote: the name of the score, the knots, and the index of the chosen one.
    """
    for regularizer in job.regularizers.values():
        if not isinstance(regularizer, Regularize):
            continue
        path, walk = regularizer.strength, regularizer.path
        if not isinstance(path, penalties.Path):
            continue
        folder = path.dirpath
        if walk is not None and walk.folder:
            folder = walk.folder
        elif folder is None:
            # Spawned processes walked with copies of the callback.
            folder = f"{getattr(job.trainer.checkpoint_callback, 'dirpath', '')}/path"
        file = Path(folder) / PATH_FILE
        if file.exists():
            return dict(json.loads(file.read_text(encoding="utf-8")))
    return None
