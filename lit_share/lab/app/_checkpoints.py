"""Checkpoints that are never left half-written, and that their run can read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from lit_share.files import beside
from lit_share.paired import globals_of_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Writes to a file beside the checkpoint and renames it, which is atomic.

    Classes of the objects in it are allowed for `torch.load` with ``weights_only=True`` in this
    process, as the run is to read its own best checkpoint. `own_classes_allowed` ends that.
    """

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
            _allow_classes(unfinished, checkpoint)


@contextmanager
def own_classes_allowed() -> Iterator[None]:
    """Allow classes in checkpoints that this process writes until the end of the context."""
    before = torch.serialization.get_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _allow_classes(path: Path, checkpoint: dict[str, Any]) -> None:
    # Nobody else has written the file, and its objects are of classes that are in use.
    try:
        torch.serialization.add_safe_globals(globals_of_checkpoint(path))
    except (pickle.PickleError, AttributeError, ImportError) as error:
        # Now, as the run could not read its best checkpoint at the end of training.
        raise ValueError(
            f"the checkpoint has objects that cannot be read back ({error}) among its entries "
            f"{', '.join(checkpoint)}: let state_dict and on_save_checkpoint of modules and "
            "callbacks give numbers, texts and tensors"
        ) from error
