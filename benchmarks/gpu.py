"""What a machine without a GPU cannot show, in one command: `python -m benchmarks.gpu`.

The matrix of modes on CUDA (two processes over NCCL where there are two GPUs, else over gloo on the
CPU), all tests, as some move to a GPU if there is one, the table of speed, and a sweep on a SLURM
cluster where there is one. Says what it could not run, and ends with 1 if something failed or there
was nothing to run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

ROOT = Path(__file__).parents[1]
SWEEP = (
    "train.py",
    "-m",
    "hydra/launcher=submitit_slurm",
    "trainer=gpu",
    "logger=csv",
    "trainer.max_epochs=2",
)


def main() -> int:
    """Run what can be run."""
    failed = []
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        print(
            f"{gpus} × {torch.cuda.get_device_name()}, "
            f"torch {torch.__version__}, CUDA {torch.version.cuda}"
        )
        print(
            "two processes: "
            + ("NCCL" if gpus > 1 else "gloo on the CPU, as there is one GPU only"),
            flush=True,
        )
        failed += _run(
            "modes",
            ["-m", "pytest", "-q", "-m", "modes", "tests/modes"],
            {"LIT_SHARE_DEVICE": "cuda"},
        )
        failed += _run("tests", ["-m", "pytest", "-q", "-m", "not modes"], {})
        failed += _run("speed", ["-m", "benchmarks.speed", "--device", "cuda"], {})
    else:
        print(
            "no CUDA device: the matrix of modes was not run on one; `pytest -m modes "
            "tests/modes` runs it on the CPU"
        )
    if shutil.which("sbatch"):
        with TemporaryDirectory(dir=Path.cwd()) as directory:  # which the nodes see, too
            sweep = [
                *SWEEP,
                "regularizer=none,soft_tie",
                "seed=0,1",
                f"hydra.sweep.dir={directory}",
            ]
            failed += _run("SLURM", sweep, {})
    else:
        print("no SLURM cluster: there is no sbatch here")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed) or not (torch.cuda.is_available() or shutil.which("sbatch")))


def _run(name: str, arguments: list[str], variables: dict[str, str]) -> list[str]:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=os.environ | variables)
    return [name] if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
