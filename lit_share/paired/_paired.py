"""The composite LightningModule."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.parsing import clean_namespace
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from lit_share.paired import _checkpoint
from lit_share.paired._hooks import REFUSED, STEPS, Delegating
from lit_share.paired._optimizer import PairedOptimizer, compose

# What Lightning asks a module once, so that the pair can have only one answer.
_SETTINGS = (
    "strict_loading",
    "prepare_data_per_node",
    "allow_zero_length_dataloader_with_multiple_devices",
)


class Paired(Delegating):
    r"""Trains several unchanged LightningModules side by side, as one.

    Each child keeps its own data, loss, optimizer, schedulers, clipping, hooks and hyperparameters, and does what it
    would do alone: with nothing else in the run, such as a penalty that ties the children, each is trained bitwise as
    by a Trainer of its own. The loss is the sum of the children's:

    .. math:: L(W_a, W_b) = L_a(W_a) + L_b(W_b)

    **Data.** Loaders are a dict with a loader for each child, `{"a": loader_a, "b": loader_b}`, passed to the Trainer
    or returned by a DataModule, or else the children's own `train_dataloader` and so on. In training the shorter ones
    start again until the longest is through, which is the epoch of all; otherwise they run one after the other, so
    that each sample is evaluated once. A `CombinedLoader` of another mode, or a loader of such dicts of batches,
    works too; a child whose batch is None sits out.

    **Results.** As Lightning does for several loaders, `trainer.test` and `trainer.validate` return a dict for each
    child, in their order: `[{"a/test/acc": 0.9}, {"b/test/acc": 0.8}]`. `trainer.callback_metrics` has all in one.

    **Names.** Parameters are `a.net.0.weight`, metrics `a/val/loss`. Children's own monitors are translated; those of
    callbacks are not: write `EarlyStopping("a/val/loss")`.

    **What a child still shares**: the Trainer, so `self.trainer.callback_metrics`, `self.trainer.optimizers` and the
    like are the pair's; the random number stream, so dropout, and shuffling by a loader without a `generator` of its
    own, draw other numbers than alone; and, in 16-bit precision, steps skipped for an overflow.

    Args:
        same_init: Whether the others start from the first child's values, where they have the same names and shapes,
            so that units of the same place correspond, which ties rely on.
        **children: LightningModules with automatic optimization, by name. The names become attributes.

    Raises:
        TypeError: If there is no child, or one is not a LightningModule.
        ValueError: If a name cannot be an attribute, two names stand for one module, or a child does what cannot be
            done for one child of several; the message says what to do instead.

    Example:
        >>> from lit_share.lab.models import Classifier
        >>> a, b = (Classifier(torch.nn.Linear(4, 2), num_classes=2, lr=lr) for lr in (0.1, 0.2))
        >>> pair = Paired(a=a, b=b)
        >>> [name for name, _ in pair.named_parameters()]
        ['a.net.weight', 'a.net.bias', 'b.net.weight', 'b.net.bias']
        >>> pair.hparams["b"]["lr"]
        0.2
    """

    def __init__(self, *, same_init: bool = False, **children: LightningModule) -> None:
        super().__init__()
        if not children:
            raise TypeError(
                "Paired needs at least one LightningModule: write Paired(a=LitA(), b=LitB())"
            )
        taken = {*dir(self), "loss"}
        for name, child in children.items():
            if not name.isidentifier() or keyword.iskeyword(name) or name in taken:
                raise ValueError(
                    f"{name!r} cannot name a child, because it is taken or no Python name: rename it"
                )
            _refuse(name, child)
            for other in self.child_names:
                if getattr(self, other) is child:
                    raise ValueError(
                        f"{other!r} and {name!r} are one module: write copy.deepcopy for a second one"
                    )
            setattr(self, name, child)
            self.child_names = (*self.child_names, name)
        if same_init:
            _start_from_the_first(children)
        for setting in _SETTINGS:
            answers = {name: getattr(child, setting) for name, child in children.items()}
            if len(set(answers.values())) > 1:
                raise ValueError(f"children must agree in {setting}: {answers}")
            if answers[name] != getattr(self, setting):
                setattr(self, setting, answers[name])
        hparams = {name: dict(child.hparams) for name, child in children.items() if child.hparams}
        for own in hparams.values():
            clean_namespace(own)
        self.save_hyperparameters(
            hparams, logger=any(child._log_hyperparams for child in children.values())
        )

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        """The sum of the children's losses as `loss`, and each child's outputs by its name.

        Raises:
            ValueError: If a child returns neither a loss nor None.
        """
        total: Tensor | None = None
        outputs: dict[str, Any] = {}
        for name, output in self.delegate("training_step", batch, batch_idx).items():
            if output is None:
                continue
            extra = output if isinstance(output, Mapping) else {"loss": output}
            if not isinstance(loss := extra.get("loss"), Tensor):
                raise ValueError(
                    f"training_step of child {name!r} must return a tensor, a dict with 'loss', or None"
                )
            total = loss if total is None else total + loss
            outputs[name] = {**extra, "loss": loss.detach() / self.trainer.accumulate_grad_batches}
        return None if total is None else {"loss": total, **outputs}

    def configure_optimizers(self) -> PairedOptimizer:
        """One optimizer made of the children's own.

        Raises:
            ValueError: If a child cannot be trained, or its optimizer cannot be stepped together with others.
        """
        for hook in ("training_step", "configure_optimizers"):
            if lacking := self.by_name().keys() - set(self.overriding(hook)):
                raise ValueError(
                    f"children {sorted(lacking)} have no {hook}: a child that trains needs one"
                )
        return compose(self.by_name())

    def on_fit_start(self) -> None:
        """Hand the children's schedulers to the Trainer.

        Raises:
            ValueError: If two children would step one parameter.
        """
        # Not earlier: while it sets up, Lightning refuses schedulers of optimizers that are not its own. Not later:
        # after this hook it restores their states.
        self.trainer.lr_scheduler_configs.extend(self._optimizer.schedulers)
        owners: dict[Tensor, str] = {}
        for name, part in self._optimizer.parts.items():
            for parameter in (each for group in part.param_groups for each in group["params"]):
                if owners.setdefault(parameter, name) != name:
                    names = [
                        key
                        for key, each in self.named_parameters(remove_duplicate=False)
                        if each is parameter
                    ]
                    raise ValueError(
                        f"{' and '.join(names)} are one parameter, which the optimizers of {owners[parameter]!r} and"
                        f" {name!r} would both step: add callbacks=[lit_share.Share(...)] with their ties to the"
                        " Trainer, which lets the first one do so"
                    )
        super().on_fit_start()

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step a scheduler as the child that configured it does."""
        for name, part in self._optimizer.parts.items():
            if scheduler.optimizer is part:
                with self.as_if_alone(name):
                    getattr(self, name).lr_scheduler_step(scheduler, metric)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let each child write its part of the checkpoint."""
        for name, child in self.by_name().items():
            part = {**_checkpoint.split(checkpoint, name), **_checkpoint.hyperparameters(child)}
            child.on_save_checkpoint(part)
            _checkpoint.merge(checkpoint, name, part)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let each child read its part of the checkpoint."""
        for name, child in self.by_name().items():
            part = _checkpoint.split(checkpoint, name)
            child.on_load_checkpoint(part)
            _checkpoint.merge(checkpoint, name, part)

    def export_child(
        self, name: str, path: str | Path, checkpoint: str | Path | None = None
    ) -> None:
        """Write one child as a checkpoint of its own, which its class opens with `load_from_checkpoint`.

        Args:
            name: Name of the child.
            path: File to write.
            checkpoint: A checkpoint of the pair to take the child from. Default: as the child is now.

        Raises:
            ValueError: If there is no child of that name, here or in the checkpoint.
        """
        if name not in self.child_names:
            raise ValueError(
                f"there is no child {name!r}: the children are {list(self.child_names)}"
            )
        if checkpoint is not None:
            whole = torch.load(checkpoint, map_location="cpu", weights_only=True)
            if name not in whole.get(_checkpoint.CHILDREN, {}):
                raise ValueError(
                    f"{checkpoint} has no child {name!r}: it must be a checkpoint of this pair"
                )
        else:
            whole = {
                "epoch": self.current_epoch,
                "global_step": self.global_step,
                "pytorch-lightning_version": lightning.__version__,
                "state_dict": self.state_dict(),
            }
            self.on_save_checkpoint(whole)
        torch.save(_checkpoint.split(whole, name), path)

    @property
    def _optimizer(self) -> PairedOptimizer:
        (optimizer,) = self.trainer.optimizers
        if not isinstance(optimizer, PairedOptimizer):
            strategy = type(self.trainer.strategy).__name__
            raise ValueError(
                f"{strategy} replaces the optimizer by one of its own: train a pair with DDP instead"
            )
        return optimizer


def _start_from_the_first(children: Mapping[str, LightningModule]) -> None:
    (first_name, first), *others = children.items()
    for name, child in children.items():
        if any(isinstance(parameter, UninitializedParameter) for parameter in child.parameters()):
            raise ValueError(
                f"same_init=True: {name!r} has lazy layers, which have no values yet: run it once before"
            )
    initial = {key: value for key, value in first.state_dict().items() if isinstance(value, Tensor)}
    for name, child in others:
        own = child.state_dict()
        fitting = {
            key: value
            for key, value in initial.items()
            if key in own and own[key].shape == value.shape
        }
        if not fitting:
            raise ValueError(
                f"same_init=True: nothing in {name!r} has the name and shape of something in {first_name!r}, such as "
                f"{next(iter(initial), '')!r}: copy the values yourself, and leave it out"
            )
        child.load_state_dict(own | fitting)


def _refuse(name: str, child: object) -> None:
    if not isinstance(child, LightningModule):
        raise TypeError(
            f"child {name!r} must be a LightningModule, got a {type(child).__name__}: write Paired(a=LitA(), b=LitB()),"
            " or Paired.load_from_checkpoint(path, a=LitA(), b=LitB())"
        )
    if isinstance(child, Delegating):
        raise ValueError(
            f"child {name!r} is a pair itself: pass its children, Paired(**pair.by_name(), ...)"
        )
    if not child.automatic_optimization:
        raise ValueError(
            f"child {name!r} optimizes manually: let it return its loss from training_step, and leave out"
            " self.automatic_optimization = False"
        )
    for hook, instead in REFUSED.items():
        if is_overridden(hook, child):
            raise ValueError(f"child {name!r} overrides {hook}, but {instead}")
    for step in STEPS.values():
        if is_param_in_hook_signature(getattr(child, step), "dataloader_iter", explicit=True):
            raise ValueError(
                f"{step} of child {name!r} takes dataloader_iter: take batch and batch_idx"
            )
