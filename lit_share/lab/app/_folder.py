"""The folder of a run, in which runs are not mixed."""

from __future__ import annotations

from pathlib import Path

from lit_share.callbacks import PATH_FILE
from lit_share.files import remove_unfinished
from lit_share.lab.results import RESULT_FILE
from lit_share.lab.search import COURSE_FILE
from lit_share.lab.sweeps import CHECKPOINTS

# What runs write, by the folders in that of their checkpoints. Without the last checkpoint, a run
# that is killed in between starts from the beginning, so it is removed first.
_WRITTEN = {
    "": ("last.ckpt", "best.ckpt"),
    "retrained": ("last.ckpt", "best.ckpt"),
    "path": ("knot_*.ckpt", PATH_FILE),
}


def clear_folder(output_dir: Path, ckpt_path: str | None) -> None:
    """Remove what an earlier run has left in a folder, unless this run resumes it.

    Files that runs do not write are left as they are, as the folder may be one of the user's.

    Args:
        output_dir: The folder.
        ckpt_path: The checkpoint that the run resumes from; an earlier run in the same folder is
            resumed if it is there.
    """
    checkpoints = output_dir / CHECKPOINTS
    is_resumed = False
    if ckpt_path is not None:
        is_resumed = Path(ckpt_path).resolve().is_relative_to(checkpoints.resolve())
    if not is_resumed:
        for file in (RESULT_FILE, COURSE_FILE):
            (output_dir / file).unlink(missing_ok=True)
        for folder, names in _WRITTEN.items():
            for name in names:
                for path in (checkpoints / folder).glob(name):
                    path.unlink()
    for path in (output_dir, *(checkpoints / folder for folder in _WRITTEN)):
        remove_unfinished(path)
