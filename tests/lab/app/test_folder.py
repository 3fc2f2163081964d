"""Runs in one folder are not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_share.lab.app._folder import clear_folder

OURS = [
    "result.json",
    "course.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "checkpoints/retrained/best.ckpt",
    "checkpoints/path/knot_3.ckpt",
    "checkpoints/path/path.json",
]
OTHERS = ["checkpoints/mine.ckpt", "csv/version_0/metrics.csv", "best.ckpt", "notes.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*OURS, *OTHERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ckpt_path", [None, "/elsewhere/checkpoints/last.ckpt"])
def test_a_new_run_replaces_what_runs_write_and_nothing_else(
    folder: Path, ckpt_path: str | None
) -> None:
    clear_folder(folder, ckpt_path)
    assert left(folder) == set(OTHERS)


@pytest.mark.parametrize("name", ["last.ckpt", "path/knot_3.ckpt", "../checkpoints/best.ckpt"])
def test_a_resumed_run_keeps_everything(folder: Path, name: str) -> None:
    (folder / "checkpoints" / ".lit-share-0.tmp").touch()
    clear_folder(folder, f"{folder}/checkpoints/{name}")
    assert left(folder) == {*OURS, *OTHERS}
