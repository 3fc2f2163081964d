"""Note what submodules are called with in a training step that leaves no trace."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torchmetrics import Metric, MetricCollection

from lit_share.alignment import AlignError, Inputs, evaluating
from lit_share.callbacks._batches import transferred
from lit_share.callbacks._random_state import same_random_state
from lit_share.lightnings import is_module, is_param_in_hook_signature

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# What to do where inputs cannot be noted; the documentation of `Align` says what they are.
GIVE_INPUTS = "give inputs=, an example of what the submodules are called with"


class _AllNoted(BaseException):
    """Raised in the middle of a step; no `except Exception` of the user's should catch it."""


def refuse_unsupported_step(module: LightningModule) -> None:
    """Raise `AlignError` if the training step cannot be run without training."""
    if not module.automatic_optimization:
        raise AlignError(
            f"{type(module).__name__} has manual optimization, so its training_step cannot be run "
            f"without training: {GIVE_INPUTS}"
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise AlignError(
            f"the training_step of {type(module).__name__} takes dataloader_iter, from which a "
            f"batch would be missing: {GIVE_INPUTS}"
        )


def capture_inputs(
    trainer: Trainer, module: LightningModule, names: Sequence[str], batch: Any, batch_idx: int
) -> dict[str, Inputs]:
    """Run a training step in evaluation mode until all submodules are called.

    The random state, modes, buffers, metrics and attributes of LightningModules are restored,
    nothing is logged, and there are no gradients.

    Args:
        trainer: The Trainer of the module.
        module: The module in training.
        names: The names of the submodules.
        batch: A batch, on the device of the module.
        batch_idx: Its index.

    Returns:
        What each submodule was first called with, by name.

    Raises:
        AlignError: If the step fails, or does not call a submodule.
    """
    noted: dict[str, Inputs] = {}

    def note(name: str, called: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if name not in noted:
            noted[name] = _as_inputs(name, called, args, kwargs)
        if len(noted) == len(names):
            raise _AllNoted

    # Before the hooks of the user, which will be run again when the submodule is called.
    handles = [
        module.get_submodule(name).register_forward_pre_hook(
            partial(note, name), prepend=True, with_kwargs=True
        )
        for name in names
    ]
    try:
        with _unchanged(module), _full_precision(trainer, module):
            arguments = [copy.deepcopy(batch)]
            if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2):
                arguments.append(batch_idx)
            module.training_step(*arguments)
    except _AllNoted:
        pass
    except AlignError:
        raise
    # The user's code may raise anything, for instance if it needs gradients.
    except Exception as error:
        raise AlignError(
            f"training_step failed in evaluation mode without gradients, before it called "
            f"{_missing(names, noted)} ({type(error).__name__}: {error}): {GIVE_INPUTS}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if len(noted) < len(names):
        raise AlignError(
            f"training_step did not call {_missing(names, noted)}: {GIVE_INPUTS}, or write "
            "patterns of submodules that it calls"
        )
    return noted


def run_steps(trainer: Trainer, module: LightningModule, batches: Iterable[Any]) -> None:
    """Run the training step of each batch in evaluation mode, without traces.

    Args:
        trainer: The Trainer of the module.
        module: The module, on its device.
        batches: As loaders return them.

    Raises:
        ValueError: If the step fails.
    """
    # Gradients tell which inputs depend on parameters.
    with _unchanged(module), _full_precision(trainer, module), torch.enable_grad():
        for number, loaded in enumerate(batches):
            batch = transferred(trainer, module, loaded)
            arguments = [batch]
            if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2):
                arguments.append(number)
            try:
                module.training_step(*arguments)
            # The user's code may raise anything.
            except Exception as error:
                raise ValueError(
                    "training_step failed in evaluation mode "
                    f"({type(error).__name__}: {error}): give inputs=, batches of what the forward "
                    f"of {type(module).__name__} takes"
                ) from error


def _missing(names: Sequence[str], noted: dict[str, Inputs]) -> str:
    return ", ".join(repr(name) for name in names if name not in noted)


def _as_inputs(name: str, called: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Inputs:
    """Return copies of arguments; positional ones beside keywords are named, too."""
    # The step may write to its tensors afterwards.
    args, kwargs = tree_map_only(Tensor, _copied, (args, kwargs))
    if not kwargs:
        return args
    parameters = inspect.signature(called.forward).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(names):
        raise AlignError(
            f"{name!r} is called with keywords and with positional arguments that have no names: "
            f"{GIVE_INPUTS}"
        )
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


@contextmanager
def _unchanged(module: LightningModule) -> Iterator[None]:
    """Run code in evaluation mode without gradients, and restore what it changes in a module."""
    lightning = [layer for layer in module.modules() if is_module(layer)]
    attributes = [(layer, dict(vars(layer))) for layer in lightning]
    buffers = [
        (layer, name, buffer, buffer.clone())
        for layer in module.modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None
    ]
    with same_random_state(), _copied_metrics(module), evaluating(module):
        try:
            for layer in lightning:
                vars(layer).update(log=_ignore, log_dict=_ignore)
            yield
        finally:
            for layer, saved in attributes:
                vars(layer).clear()
                vars(layer).update(saved)
            for owner, name, buffer, value in buffers:
                owner._buffers[name] = buffer.copy_(value)


def _ignore(*_: Any, **__: Any) -> None:
    """Log nothing."""


@contextmanager
def _copied_metrics(module: nn.Module) -> Iterator[None]:
    """Put copies in the place of metrics, whose states are no buffers."""
    metrics = [
        (layer, name, child)
        for layer in module.modules()
        for name, child in layer._modules.items()
        if isinstance(child, (Metric, MetricCollection))
        and not isinstance(layer, (Metric, MetricCollection))
    ]
    try:
        for layer, name, metric in metrics:
            layer._modules[name] = copy.deepcopy(metric)
        yield
    finally:
        for layer, name, metric in metrics:
            layer._modules[name] = metric


@contextmanager
def _full_precision(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Run code as a step of this precision, but without autocast and compilation."""
    # Submodules will be called outside of autocast, which takes no inputs in half precision.
    with (
        trainer.precision_plugin.train_step_context(),
        torch.autocast(module.device.type, enabled=False),
        torch.compiler.set_stance("force_eager"),
    ):
        yield
