"""Trains in two processes, and saves the weights."""

from __future__ import annotations

import sys

import torch

from lit_share.huggingface import Regularize, Share
from tests.huggingface._training import hugging_face, weights


def main(penalty, file):
    ties = ["a.*", "b.*"]
    callback = Share(ties)
    if penalty != "share":
        callback = Regularize(penalty, ties, strength=0.2)
    options = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    trainer = hugging_face(
        callback, optimizer=None, per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        clip=0.5, ddp_backend="gloo", **options,
    )  # fmt: skip
    assert trainer.args.world_size == 2
    if trainer.is_world_process_zero():
        torch.save(weights(trainer.model), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
