"""Checkpoints are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from lit_share.lab.app._checkpoints import WholeCheckpoints


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_filesystem(*_: Any) -> NoReturn:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    def half_copied(_: str, target: str, **__: Any) -> NoReturn:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    WholeCheckpoints().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    monkeypatch.setattr(os, "rename", other_filesystem)
    monkeypatch.setattr(shutil, "copyfile", half_copied)
    with pytest.raises(OSError, match="No space left on device"):
        WholeCheckpoints().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
