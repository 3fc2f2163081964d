"""`Paired`, a LightningModule of several others."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from functools import reduce
from itertools import chain
from operator import add
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from lit_share.files import beside
from lit_share.lightnings import (
    is_module,
    is_overridden,
    is_param_in_hook_signature,
    module_of,
)
from lit_share.paired import _checkpoint
from lit_share.paired._data import PairedData
from lit_share.paired._hooks import REFUSED, STEPS, Delegating
from lit_share.paired._hyperparameters import readable_hyperparameters
from lit_share.paired._optimizer import PairedOptimizer, compose
from lit_share.text import described

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

# Attributes that Lightning reads once per fit, so that children must agree on a value.
_SETTINGS = (
    "strict_loading",
    "prepare_data_per_node",
    "allow_zero_length_dataloader_with_multiple_devices",
)


class Paired(Delegating):
    r"""Train several LightningModules together, without changes to them.

    Each child keeps its data, loss, optimizer, schedulers, clipping, hooks and hyperparameters, and
    without penalties its weights are bitwise those of a separate Trainer. The losses are added:

    .. math:: L(W_a, W_b) = L_a(W_a) + L_b(W_b)

    **Data.** Loaders are a dict by child, `{"a": loader_a, "b": loader_b}`, from the Trainer's
    arguments or a DataModule, or the children's `train_dataloader` and other hooks. In training, an
    epoch has the length of the longest loader, and shorter ones restart; otherwise loaders run one
    after the other, so that each sample is evaluated once. A `CombinedLoader` of another mode, or a
    loader of dicts of batches, works, too; a child whose batch is None is skipped.

    **Names.** Parameters are `a.net.0.weight`, metrics `a/val/loss`. Monitors of children's
    schedulers are prefixed; for callbacks, write `EarlyStopping("a/val/loss")`. `trainer.test` and
    `trainer.validate` return a dict for each loader of each child:
    `[{"a/test/acc": 0.9}, {"b/test/acc": 0.8}]`.

    **Trainer.** A child's `self.trainer` has the child as `model`, and the child's own optimizers,
    loaders, datamodule (see `PairedData`) and metrics, by the names that the child gave them.

    **In common.** Children take the same number of steps. The global random number stream is
    common, so dropout, and shuffling without a `generator`, draw other numbers. In 16-bit precision
    an overflow skips all children's steps.

    Args:
        same_init: Whether the other children start from the first child's values, where names and
            shapes agree, so that units correspond, as ties need.
        **children: LightningModules with automatic optimization, by name. Names become attributes.

    Raises:
        TypeError: If there is no child, a child has no name or is not a LightningModule, or some
            children are of `lightning.pytorch` and others of `pytorch_lightning`.
        ValueError: If a name cannot be an attribute, two names refer to the same module, or a child
            overrides a hook that cannot act on a single child.

    Example:
        >>> from lit_share.lab.models import Classifier
        >>> a, b = (Classifier(torch.nn.Linear(4, 2), num_classes=2, lr=lr) for lr in (0.1, 0.2))
        >>> pair = Paired(a=a, b=b)
        >>> [name for name, _ in pair.named_parameters()]
        ['a.net.weight', 'a.net.bias', 'b.net.weight', 'b.net.bias']
        >>> pair.hparams["b"]["lr"]
        0.2
    """

    def __init__(
        self, *unnamed: LightningModule, same_init: bool = False, **children: LightningModule
    ) -> None:
        super().__init__()
        if unnamed:
            raise TypeError(
                f"Paired takes its children by name, but {len(unnamed)} have none: write "
                "Paired(a=LitA(), b=LitB()), as parameters and metrics are named after them"
            )
        if not children:
            raise TypeError(
                "Paired needs at least one LightningModule: write Paired(a=LitA(), b=LitB())"
            )
        for name, child in children.items():
            _check_child(self, name, child)
            setattr(self, name, child)
            self.child_names = (*self.child_names, name)
        if same_init:
            _copy_first_values(children)
        for setting in _SETTINGS:
            answers = {name: getattr(child, setting) for name, child in children.items()}
            if len(set(answers.values())) > 1:
                raise ValueError(f"children must agree in {setting}: {answers}")
            if answers[name] != getattr(self, setting):
                setattr(self, setting, answers[name])
        hparams = {name: dict(child.hparams) for name, child in children.items() if child.hparams}
        for own in hparams.values():
            module_of(self, "utilities.parsing").clean_namespace(own)
        log = any(child._log_hyperparams for child in children.values())
        self.save_hyperparameters(hparams, logger=log)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        """Return the sum of the children's losses as `loss`, and each child's output by name.

        Raises:
            ValueError: If a child returns neither a loss nor None.
        """
        losses: list[Tensor] = []
        outputs: dict[str, Any] = {}
        for name, output in self.delegate("training_step", batch, batch_idx).items():
            if output is None:
                continue
            if not isinstance(output, Mapping):
                output = {"loss": output}
            loss = output.get("loss")
            if not isinstance(loss, Tensor):
                raise ValueError(
                    f"training_step of child {name!r} must return a tensor, {{'loss': ...}} or None"
                )
            losses.append(loss)
            # Lightning divides the loss in this way before it passes outputs to hooks.
            outputs[name] = {**output, "loss": loss.detach() / self.trainer.accumulate_grad_batches}
        if not losses:
            return None
        return {"loss": reduce(add, losses), **outputs}

    def configure_optimizers(self) -> PairedOptimizer:
        """Return an optimizer that steps those of all children.

        Raises:
            ValueError: If a child lacks a hook, or its optimizer cannot be combined with others.
        """
        for hook in ("training_step", "configure_optimizers"):
            if lacking := self.by_name().keys() - set(self.overriding(hook)):
                raise ValueError(f"children {sorted(lacking)} have no {hook}: write one for each")
        return compose(self.by_name())

    def on_fit_start(self) -> None:
        """Pass the children's schedulers to the Trainer.

        Raises:
            ValueError: If two children's optimizers have the same parameter.
        """
        # During setup, Lightning would refuse schedulers of optimizers that it does not know. After
        # this hook, it restores the schedulers' states.
        self.trainer.lr_scheduler_configs.extend(self._optimizer.schedulers)
        owners: dict[Tensor, str] = {}
        for name, part in self._optimizer.parts.items():
            for parameter in chain.from_iterable(group["params"] for group in part.param_groups):
                if owners.setdefault(parameter, name) != name:
                    named = self.named_parameters(remove_duplicate=False)
                    names = [key for key, each in named if each is parameter]
                    raise ValueError(
                        f"{' and '.join(names)} are one parameter, which the optimizers of "
                        f"{owners[parameter]!r} and {name!r} would both step: give the Trainer "
                        "callbacks=[lit_share.Share(...)] with their ties, and only one steps it"
                    )
        super().on_fit_start()

    def teardown(self, stage: str) -> None:
        """Call the children's hooks."""
        super().teardown(stage)
        # Lightning forgets the names of metrics, too, as another fit may find others.
        for child in self.by_name().values():
            child._metric_attributes = None

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Call the hook of the child that configured the scheduler."""
        for name, part in self._optimizer.parts.items():
            if scheduler.optimizer is part:
                with self.as_if_alone(name):
                    getattr(self, name).lr_scheduler_step(scheduler, metric)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Call the children's hooks, each with its own checkpoint."""
        data = getattr(self._trainer, "datamodule", None)
        for name, child in self.by_name().items():
            own = {**_checkpoint.split(checkpoint, name), **_checkpoint.hyperparameters(child)}
            if isinstance(data, PairedData) and name in data.by_name():
                own |= _checkpoint.hyperparameters(data.by_name()[name])
            child.on_save_checkpoint(own)
            _checkpoint.merge(checkpoint, name, own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Call the children's hooks, each with its own checkpoint."""
        for name, child in self.by_name().items():
            own = _checkpoint.split(checkpoint, name)
            child.on_load_checkpoint(own)
            _checkpoint.merge(checkpoint, name, own)

    def export_child(
        self,
        name: str,
        path: str | Path,
        checkpoint: str | Path | Mapping[str, Any] | None = None,
    ) -> None:
        """Write a child's checkpoint, for the `load_from_checkpoint` of its class.

        Args:
            name: The name of the child.
            path: The file to write.
            checkpoint: A checkpoint of the pair: its file, or what `torch.load` returns of it.
                ``None``: the current values.

        Raises:
            ValueError: If the pair or the checkpoint has no child of that name, or the file has
                objects other than tensors, numbers and texts, such as functions.
        """
        if name not in self.child_names:
            raise ValueError(f"no child {name!r}: the children are {list(self.child_names)}")
        if checkpoint is not None:
            full = _load(self, name, checkpoint)
            if name not in full.get(_checkpoint.CHILDREN, {}):
                where = "the checkpoint"
                if isinstance(checkpoint, (str, Path)):
                    where = str(checkpoint)
                raise ValueError(
                    f"{where} has no child {name!r}: it must be a checkpoint of this pair"
                )
        else:
            full = {
                "epoch": self.current_epoch,
                "global_step": self.global_step,
                "pytorch-lightning_version": module_of(self).__version__,
                "state_dict": self.state_dict(),
            }
            self.on_save_checkpoint(full)
        with beside(path) as unfinished:
            torch.save(_checkpoint.split(full, name), unfinished)

    @property
    def _optimizer(self) -> PairedOptimizer:
        (optimizer,) = self.trainer.optimizers
        if not isinstance(optimizer, PairedOptimizer):
            strategy = type(self.trainer.strategy).__name__
            raise ValueError(f"{strategy} replaces the optimizer by its own: train pairs with DDP")
        return optimizer


def _load(pair: Paired, name: str, checkpoint: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint; raise `ValueError` if that would run code in its file."""
    if isinstance(checkpoint, Mapping):
        return dict(checkpoint)
    try:
        # The children come first: they have what the pair has, by the names their authors gave it.
        with readable_hyperparameters(*pair.by_name().values(), pair):
            return dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    except UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} has other objects than tensors, numbers and texts, such as functions "
            "among its hyperparameters: if you trust the file, write "
            f"export_child({name!r}, ..., checkpoint=torch.load({str(checkpoint)!r}, "
            "weights_only=False))"
        ) from error


def _copy_first_values(children: Mapping[str, LightningModule]) -> None:
    (first_name, first), *others = children.items()
    for name, child in children.items():
        if any(isinstance(parameter, UninitializedParameter) for parameter in child.parameters()):
            raise ValueError(
                f"same_init=True: {name!r} has lazy layers, which have no values yet: call it once"
            )
    # A state dict may have other entries, from `get_extra_state`.
    initial = {key: value for key, value in first.state_dict().items() if isinstance(value, Tensor)}
    for name, child in others:
        values = child.state_dict()
        fitting = [k for k in initial if k in values and values[k].shape == initial[k].shape]
        if not fitting:
            raise ValueError(
                f"same_init=True: nothing in {name!r} has the name and shape of something in "
                f"{first_name!r}, such as {next(iter(initial), '')!r}: leave it out"
            )
        child.load_state_dict(values | {key: initial[key] for key in fitting})


def _check_child(pair: Paired, name: str, child: object) -> None:
    # "loss" would clash with the key of the sum in the output of `training_step`.
    if not name.isidentifier() or keyword.iskeyword(name) or name in {*dir(pair), "loss"}:
        raise ValueError(
            f"{name!r} cannot name a child, because it is taken or no Python name: rename it"
        )
    if isinstance(child, type):
        raise TypeError(
            f"child {name!r} must be a LightningModule, got {described(child)}: write "
            f"Paired({name}={child.__name__}(...))"
        )
    if not is_module(child):
        raise TypeError(
            f"child {name!r} must be a LightningModule, got a {type(child).__name__}: write "
            "Paired(a=LitA(), b=LitB()), or Paired.load_from_checkpoint(path, a=LitA(), b=LitB())"
        )
    if isinstance(child, Delegating):
        raise ValueError(
            f"child {name!r} is a pair itself: pass its children, Paired(**pair.by_name(), ...)"
        )
    if not child.automatic_optimization:
        raise ValueError(
            f"child {name!r} optimizes manually: let it return its loss from training_step, and "
            "leave out self.automatic_optimization = False; or tie submodules of one module, "
            "without Paired, which works with manual optimization"
        )
    for other, known in pair.by_name().items():
        if known is child:
            raise ValueError(
                f"{other!r} and {name!r} are one module: write copy.deepcopy for a second one"
            )
    for hook, (reason, instead) in REFUSED.items():
        if is_overridden(hook, child):
            raise ValueError(
                f"child {name!r} overrides {hook}, but {reason}: {instead}, and leave it out:\n"
                f"    class InPair({type(child).__name__}):\n"
                f"        {hook} = LightningModule.{hook}\n"
                f"    pair = Paired({name}=InPair(...), ...)"
            )
    for step in STEPS.values():
        if is_param_in_hook_signature(getattr(child, step), "dataloader_iter", explicit=True):
            raise ValueError(
                f"{step} of child {name!r} takes dataloader_iter: take batch and batch_idx"
            )
