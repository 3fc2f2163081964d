"""Checkpoints that are whole, whenever the process is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the file, and puts it in its place in one step.

    Lightning 2.6 writes to the folder of temporary files. Where that is on another filesystem, it copies from there
    over the checkpoint before, and a process that is killed meanwhile leaves neither.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        unfinished = Path(f"{path}.tmp")
        try:
            super().save_checkpoint(checkpoint, unfinished, storage_options)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
