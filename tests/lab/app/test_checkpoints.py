"""Checkpoints are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from lit_share.lab.app._checkpoints import WholeCheckpoints, own_classes_allowed
from lit_share.lab.app.run import run

from ._sites import Kept
from .conftest import Compose
from .test_lightnings import FAST, SITES, of_sites


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


def test_classes_of_its_own_checkpoint_are_allowed_while_it_runs(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    with own_classes_allowed():
        WholeCheckpoints().save_checkpoint({"kept": Kept()}, tmp_path / "a.ckpt")
        assert isinstance(torch.load(tmp_path / "a.ckpt", weights_only=True)["kept"], Kept)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.ckpt", weights_only=True)


def test_what_could_not_be_read_at_the_end_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"builtins.getattr .* among its entries step, kept: let"):
        WholeCheckpoints().save_checkpoint({"step": 1, "kept": Kept.Nested()}, tmp_path / "a.ckpt")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("model", ["keeping", "pair"])
def test_a_run_reads_objects_that_it_has_written(
    compose_config: Compose, tmp_path: Path, model: str
) -> None:
    """Those of a child's on_save_checkpoint, and those of a callback."""
    kept = f"+callbacks.kept._target_={SITES}.KeptByCallback"
    config = compose_config(*FAST, "logger=none", "trainer.max_epochs=1", kept)
    run(of_sites(config, {"_target_": f"{SITES}.{model}"}, {}), tmp_path, [])
    assert (tmp_path / "result.json").exists()


def test_an_entry_that_cannot_be_read_is_named_before_training(
    compose_config: Compose, tmp_path: Path
) -> None:
    config = compose_config(*FAST, "logger=none")
    message = r"^on_save_checkpoint of Paired adds 'kept' of type Nested, which cannot be read back"
    with pytest.raises(ValueError, match=message):
        run(of_sites(config, {"_target_": f"{SITES}.keeping_unreadable"}, {}), tmp_path, [])
    assert not (tmp_path / "checkpoints").exists()
