"""Checkpoints that are found wherever their folder is: a callback."""

from __future__ import annotations

import shutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lit_share.files import beside

__all__ = ["Checkpoint", "checkpoint_class"]


if TYPE_CHECKING:
    _Mixed = ModelCheckpoint
else:
    _Mixed = object


class _FollowsFolder(_Mixed):
    """What `Checkpoint` does, for the `ModelCheckpoint` of any Lightning."""

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state, old = dict(state_dict), state_dict["dirpath"]
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = self._found(state[key], old)
        best = state["best_k_models"]
        state["best_k_models"] = {self._found(path, old): score for path, score in best.items()}
        super().load_state_dict({**state, "dirpath": self.dirpath})

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        best = self.best_model_path
        # Without a metric, the best is the last, which is written after every epoch.
        if self.monitor is None or not best or "://" in best:
            return
        if trainer.is_global_zero and not Path(best).exists():
            raise ValueError(
                f"{best}, the best checkpoint until epoch {trainer.current_epoch}, is not there "
                "any more: put it back, or train from the start"
            )
        if Path(best).parent != Path(self.dirpath or ""):
            self._copy(best, trainer)

    def _found(self, path: str, old: str | None) -> str:
        """Return where a file of the folder ``old`` is now, and the same path if it stayed."""
        if not path or not old or "://" in path or not Path(path).is_relative_to(old):
            return path
        moved = Path(self.dirpath or "", Path(path).relative_to(old))
        if moved.exists():
            return str(moved)
        return path

    def _copy(self, best: str, trainer: Trainer) -> None:
        # Checkpoints of sharded models are folders, which would have to be copied by all ranks.
        if self.save_top_k != 1 or Path(best).is_dir():
            return
        own = self.format_checkpoint_name({}, Path(best).stem)
        if trainer.is_global_zero:
            Path(own).parent.mkdir(parents=True, exist_ok=True)
            with beside(own) as unfinished:
                shutil.copyfile(best, unfinished)
        trainer.strategy.barrier("copy of the best checkpoint")
        assert self.best_model_score is not None
        self.best_model_path = self.kth_best_model_path = own
        self.best_k_models = {own: self.best_model_score}


class Checkpoint(_FollowsFolder, ModelCheckpoint):
    """`ModelCheckpoint` that knows its best checkpoint when its folder was moved or copied.

    Lightning remembers full paths, and forgets the best score if the folder has another name when
    training is resumed. Here paths are those of the folder that it has now. A best checkpoint that
    stayed in another folder is copied to its own when training begins.

    Args:
        dirpath: The folder.
        filename: The file's name without ``.ckpt``.
        options: See `ModelCheckpoint`. With ``enable_version_counter=False`` a file of an earlier
            training in this folder is replaced; otherwise files get the ends ``-v1``, ``-v2``.

    Raises:
        ValueError: Before training, if the best checkpoint so far is not there any more.

    Example:
        >>> best = Checkpoint("checkpoints", "best", monitor="val/loss")
        >>> trainer = Trainer(callbacks=[best])  # doctest: +SKIP
    """


@cache
def checkpoint_class(package: str) -> type[ModelCheckpoint]:
    """Return `Checkpoint` of a package, ``"lightning.pytorch"`` or ``"pytorch_lightning"``."""
    if package == "lightning.pytorch":
        return Checkpoint
    base = import_module(f"{package}.callbacks").ModelCheckpoint
    return type("Checkpoint", (_FollowsFolder, base), {"__doc__": Checkpoint.__doc__})


def __getattr__(name: str) -> Any:
    # Configs name the class of the other package, which is imported for its models only.
    if name == "PytorchLightningCheckpoint":
        return checkpoint_class("pytorch_lightning")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
