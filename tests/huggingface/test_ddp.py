"""Two processes train as one, by DDP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_share.huggingface import Regularize, Share

from ._training import hugging_face, weights

ROOT = Path(__file__).parents[2]


@pytest.mark.multiprocess
@pytest.mark.parametrize("penalty", ["soft_tie", "exact_tie", "share"])
def test_two_processes_train_as_one(penalty, tmp_path):
    file = tmp_path / "weights.pt"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run(
        [*launch, str(Path(__file__).with_name("_ddp.py")), penalty, str(file)],
        check=True, capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    callback = Share(["a.*", "b.*"])
    if penalty != "share":
        callback = Regularize(penalty, ["a.*", "b.*"], strength=0.2)
    alone = hugging_face(
        callback, optimizer=None, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        clip=0.5, optim="sgd", learning_rate=0.1, lr_scheduler_type="constant",
    )  # fmt: skip
    for name, value in torch.load(file).items():
        torch.testing.assert_close(value, weights(alone.model)[name], rtol=1e-9, atol=1e-10)
