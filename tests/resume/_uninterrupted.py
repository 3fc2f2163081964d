"""Trainings that nothing stopped, with a checkpoint after each of their steps; each is run once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from ._strategies import STRATEGIES
from ._training import Lit, Rows, assert_bitwise, fit, state_of


def each_step(folder):
    return ModelCheckpoint(folder, "{epoch} {step}", every_n_train_steps=1, save_top_k=-1)


def each_validation(folder):
    """Before the end of the epoch."""
    return ModelCheckpoint(
        folder, "{epoch} {step}", monitor="val", save_top_k=-1, save_on_train_epoch_end=False
    )


class EachBatch(Callback):
    """Whether there was a step or not."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(
            f"{self.folder}/epoch={trainer.current_epoch} batch={batch_idx + 1}.ckpt"
        )


@cache
def uninterrupted(name, base, saver=None, **options):
    """The state at its end, what was logged, and the files by the numbers in their names."""
    optimizer, callbacks = STRATEGIES[name]
    module, logger, folder = Lit(optimizer), Rows(), Path(mkdtemp(dir=base))
    made = fit(module, *callbacks(), *([saver(folder)] if saver else []), logger=logger, **options)
    files = {
        tuple(int(part.split("=")[1]) for part in file.stem.split()): file
        for file in folder.iterdir()
    }
    return SimpleNamespace(state=state_of(made, module), rows=logger.rows, files=files)


def assert_resumes(name, whole, file, **options):
    """A resumed training ends as an uninterrupted one; return its log, which is equal too."""
    optimizer, callbacks = STRATEGIES[name]
    module, logger = Lit(optimizer, seeds=(3, 4)), Rows()
    made = fit(module, *callbacks(), ckpt_path=file, seed=6, logger=logger, **options)
    assert_bitwise(state_of(made, module), whole.state)
    assert_bitwise(logger.rows, whole.rows[len(whole.rows) - len(logger.rows) :], "logged")
    return logger.rows
