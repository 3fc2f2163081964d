"""Files that are good, and others that are not."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

import lit_share as ls

from ._run import Pair, fit


def files(folder: Path) -> None:
    """Put them into a folder."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True)


@cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="faults_"))
    pair = Pair()
    trainer = fit(pair, max_epochs=1)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    shutil.copy(folder / "last.ckpt", folder / "run" / "checkpoints" / "last.ckpt")
    (folder / "run" / "config.yaml").write_text("seed: 7\n")
    torch.save(pair.state_dict(), folder / "weights.pt")
    ls.save_compact(pair, folder / "good.safetensors")
    save_file({"weight": torch.ones(3)}, folder / "plain.safetensors")
    for name, whole in (("cut.safetensors", "good.safetensors"), ("cut.ckpt", "last.ckpt")):
        content = (folder / whole).read_bytes()
        (folder / name).write_bytes(content[: len(content) - 100])
    content = (folder / "good.safetensors").read_bytes()
    (folder / "flipped.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder / "empty").touch()
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text('{"schema": 1, "status": "fini')
    (folder / "done").mkdir()
    facts = {
        "schema": 1,
        "status": "finished",
        "strategy": "none",
        "seed": 0,
        "objective": "b/val/acc",
        "mode": "max",
    }
    (folder / "done" / "result.json").write_text(
        json.dumps({**facts, "overrides": ["model.classifier.lr=0.1"]})
    )
    return folder
