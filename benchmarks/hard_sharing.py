"""Measure hard sharing of encoders of 25 million parameters: `python -m benchmarks.hard_sharing`.

Each contestant trains in a process of its own, by a plain loop and by a Trainer; ratios are to the
independent pair. What a process needs for torch and Lightning alone is measured with encoders of
next to no parameters.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import lit_share as ls

TIES = ls.Ties("a.*", "b.*")
STEPS = 4
WIDTHS = {"tiny": 8, "independent": 512, "shared": 512}


def pair(which: str) -> nn.ModuleDict:
    """Two transformer encoders, of 25 million parameters each where they are not tiny."""
    width = WIDTHS[which]
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True)
    return nn.ModuleDict(
        {name: nn.TransformerEncoder(layer, 8, enable_nested_tensor=False) for name in "ab"}
    )


def loss_of(models: nn.ModuleDict, which: str) -> Tensor:
    """How well both reconstruct random inputs."""
    x = torch.randn(1, 8, WIDTHS[which])
    return (models["a"](x) - x).square().mean() + (models["b"](x) - x).square().mean()


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain_loop(which: str) -> dict[str, int]:
    """Train with nothing but torch and `lit_share.share`."""
    models = pair(which)
    if which == "shared":
        ls.share(models, TIES)
    optimizer = torch.optim.Adam(models.parameters(), lr=1e-4)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(models, which).backward()
        optimizer.step()
    memory = peak()
    state = sum(v.nbytes for entry in optimizer.state.values() for v in entry.values() if v.dim())
    return {
        "unique parameters": ls.sharing_stats(models).unique,
        "Adam state, bytes": state,
        "peak memory, plain loop": memory,
        **dict(_files(models)),
    }


def _files(models: nn.Module) -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        ls.save_compact(models, Path(folder) / "compact")
        yield "compact file, bytes", (Path(folder) / "compact").stat().st_size


def trainer(which: str) -> dict[str, int]:
    """Train with Lightning and the `Share` callback."""
    from lightning.pytorch import LightningModule, Trainer

    class Encoders(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.models = pair(which)

        def training_step(self, _: Tensor) -> Tensor:
            return loss_of(self.models, which)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-4)

    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    callbacks = [ls.Share(ls.Ties("models.a.*", "models.b.*"))] if which == "shared" else []
    made = Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, **quiet)
    made.fit(Encoders(), [torch.zeros(1)] * STEPS)
    memory = peak()
    with tempfile.TemporaryDirectory() as folder:
        made.save_checkpoint(Path(folder) / "pair.ckpt")
        return {
            "peak memory, Trainer": memory,
            "checkpoint, bytes": (Path(folder) / "pair.ckpt").stat().st_size,
        }


CONTESTS: dict[str, Callable[[str], dict[str, int]]] = {
    "plain_loop": plain_loop,
    "trainer": trainer,
}


def main() -> None:
    """Print both contestants and the ratio."""
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        print(json.dumps(CONTESTS[sys.argv[1]](sys.argv[2])))
        return
    print(f"{'':28}{'independent':>16}{'shared':>16}{'ratio':>8}")
    for contest in CONTESTS:
        tiny, apart, one = (_run(contest, which) for which in WIDTHS)
        for row, value in apart.items():
            _print(row, value, one[row])
            if row.startswith("peak"):
                _print("  above that of tiny ones", value - tiny[row], one[row] - tiny[row])


def _print(row: str, apart: int, one: int) -> None:
    print(f"{row:28}{apart:>16,}{one:>16,}{one / apart:>8.3f}")


def _run(*arguments: str) -> dict[str, int]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.hard_sharing", *arguments]
    # Freed memory is returned at once, so that the peak is memory in use, not the allocator's
    # reserve.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"}
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    measured: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
