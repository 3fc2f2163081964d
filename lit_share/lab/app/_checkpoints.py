"""Checkpoints that are never left half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from lit_share.files import beside


class WholeCheckpoints(TorchCheckpointIO):
    """Writes to a file beside the checkpoint and renames it, which is atomic."""

    # Lightning 2.6 writes to the folder for temporary files. If that is on another filesystem, it
    # copies the file over the previous checkpoint, and a process that is killed meanwhile leaves
    # neither.
    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        # A URL has no local file that could be renamed.
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as unfinished:
            super().save_checkpoint(checkpoint, unfinished, storage_options)
