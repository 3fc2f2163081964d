"""The validation loss of a module in training, on one batch, and its gradient."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_share.callbacks._batches import Batches, transferred
from lit_share.callbacks._undone import undone
from lit_share.lightnings import imported_module, is_overridden, is_param_in_hook_signature
from lit_share.ties import is_dtensor

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers.logger import Logger

# What Lightning calls before a `validation_step`, which it may depend on.
_HOOKS = ("on_validation_start", "on_validation_epoch_start", "on_validation_batch_start")

_CONVERTED = "Converting a tensor with requires_grad=True"


class ValidationLoss:
    """The loss of a module's `validation_step`, without its effects on anything else.

    Args:
        trainer: The trainer, in training.
        module: The module that it trains.
        loader: Batches as a `val_dataloader` returns them; ``None``: those of the trainer.
        loss: The name under which the loss is logged, or a function that returns the loss, given
            the module and a batch; ``None`` if it is returned, or evident.

    Attributes:
        batches: The batches that are drawn.

    Raises:
        ValueError: If there is no `validation_step`, no batch or no loss.
    """

    # The class that users write, for messages.
    way = "Learned"

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        loader: Any = None,
        loss: str | Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        self.trainer, self.module = trainer, module
        self.function = loss if callable(loss) else None
        self.name = loss if isinstance(loss, str) else None
        if self.function is None:
            self._check_step()
        # The Trainer's loaders of which `batches` were made; they may be replaced in training.
        self._loader: Any = None
        if loader is None:
            self._get_loaders()
        else:
            with self._as_in_validation({}):
                self.batches = Batches(loader, way=self.way)
        # The parameters of all callbacks that ask, and their gradients after step `_step`, which
        # are computed once. Both by the `id` of parameters.
        self._wanted: dict[int, nn.Parameter] = {}
        self._step = -1
        self._gradients: dict[int, Tensor] = {}
        self._is_first = True
        self._try()
        self._is_first = False

    def _check_step(self) -> None:
        module = self.module
        if not is_overridden("validation_step", module):
            raise ValueError(
                f"{type(module).__name__} has no validation_step, whose loss tells how strong a "
                "penalty should be: write one that returns its loss, or "
                f"{self.way}(loss=function)"
            )
        if is_param_in_hook_signature(module.validation_step, "dataloader_iter", explicit=True):
            raise ValueError(
                "validation_step(dataloader_iter) draws its own batches: let it take a batch, or "
                f"write {self.way}(loss=function)"
            )

    def _get_loaders(self) -> None:
        """Make batches of the Trainer's loaders, which it may replace in a later epoch."""
        trainer = self.trainer
        loop = trainer.fit_loop.epoch_loop.val_loop
        if loop._combined_loader is None and trainer.enable_validation:
            # Lightning gets the loaders before the first epoch only if that is validated.
            trainer.validating = True
            loop.setup_data()
            trainer.training = True
        self._loader = loop._combined_loader
        if self._loader is None:
            raise ValueError(
                "the Trainer does not validate, so there is no data to find strengths with: "
                f"give fit a validation loader, or write {self.way}(loader=...)"
            )
        with self._as_in_validation({}):
            self.batches = Batches(self._loader, loop._max_batches, self.way)

    def _try(self) -> None:
        """Find out before training whether there is a loss with a gradient."""
        drawn = self.batches.drawn
        try:
            self._compute()
        except RuntimeError as error:
            if "requires grad" not in str(error):
                raise
            raise ValueError(
                f"validation_step of {type(self.module).__name__} fails with gradients switched "
                f"on ({error}): detach what is no part of the loss, or write "
                f"{self.way}(loss=function)"
            ) from error
        self.batches.drawn = drawn

    def want(self, parameters: Sequence[nn.Parameter]) -> None:
        """Compute the gradients of these parameters, too, from now on."""
        self._wanted |= {id(parameter): parameter for parameter in parameters}

    def forget(self) -> None:
        """Drop the gradients of the last step, as weights have moved since."""
        self._step = -1

    def gradients(self, parameters: Sequence[nn.Parameter]) -> Mapping[int, Tensor]:
        """Return the gradient at the present weights, by the ``id`` of parameters.

        It is that of one batch of each loader, whose losses are added, and the mean over ranks.
        Under fp16 it is scaled like the training loss. All calls after one optimizer step get those
        of the same batches. A batch for which `validation_step` returns ``None`` is skipped; there
        are no gradients if all are.
        """
        step = self.trainer.global_step
        # Parameters may have been replaced.
        new = [p for p in parameters if id(p) not in self._wanted]
        self.want(new)
        if new or step != self._step:
            self._step = step
            loop = self.trainer.fit_loop.epoch_loop.val_loop
            if self._loader is not None and self._loader is not loop._combined_loader:
                drawn = self.batches.drawn
                self._get_loaders()
                self.batches.drawn = drawn
            self._gradients = self._compute()
        return self._gradients

    def _compute(self) -> dict[int, Tensor]:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        # They may be frozen in training.
        parameters = [p for p in self._wanted.values() if p.requires_grad]
        # Before the forward pass, in which FSDP2 puts full parameters in the place of shards.
        kept = [(parameter, parameter.grad) for parameter in self.module.parameters()]
        is_sharded = any(is_dtensor(parameter) for parameter, _ in kept)
        logged: dict[str, Any] = {}
        with self._as_in_validation(logged):
            loss = self._loss(logged, is_sharded)
            if scaler is not None and loss is not None:
                loss = loss * scaler.get_scale()
            found: list[Tensor | None]
            if loss is None and is_sharded:
                found = [None] * len(parameters)
            elif loss is None:
                found = self._mean_over_ranks(parameters, [None] * len(parameters))
            elif is_sharded:
                # FSDP2 reduces gradients in hooks of `backward`, which writes them to `.grad`.
                for parameter, _ in kept:
                    parameter.grad = None
                loss.backward()
                found = [parameter.grad for parameter in parameters]
                for parameter, own in kept:
                    parameter.grad = own
            elif parameters:
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                found = self._mean_over_ranks(parameters, gradients)
            else:
                found = []
        pairs = zip(parameters, found, strict=True)
        return {id(parameter): each for parameter, each in pairs if each is not None}

    def _mean_over_ranks(
        self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        # Its default is the average.
        reduce = self.trainer.strategy.reduce
        if self.trainer.world_size == 1:
            return list(gradients)
        # A parameter may be unused on some ranks only, which must send the same messages.
        filled = [
            torch.zeros_like(parameter) if own is None else own
            for parameter, own in zip(parameters, gradients, strict=True)
        ]
        message = torch.cat([own.flatten().float() for own in filled])
        received = reduce(message).split([own.numel() for own in filled])
        return [own.view_as(f) for own, f in zip(received, filled, strict=True)]

    def _loss(self, logged: dict[str, Any], is_sharded: bool = False) -> Tensor | None:
        """Return the sum of the losses of the next batches; ``None`` if all are skipped.

        With FSDP2, a batch that one rank skips is skipped by all.
        """
        losses = []
        for index, batch in enumerate(self.batches.draw()):
            # Each loader's step logs under the same names.
            logged.clear()
            output = self._output(batch, index, self.batches.indices[index])
            is_skipped = self._is_skipped(output, logged)
            if is_sharded:
                # Ranks that went backward would wait for those that do not.
                reduce = self.trainer.strategy.reduce_boolean_decision
                is_skipped = reduce(is_skipped, all=False)
            if not is_skipped:
                losses.append(self._loss_in(output, logged))
        return torch.stack([loss.float() for loss in losses]).sum() if losses else None

    def _is_skipped(self, output: Any, logged: Mapping[str, Any]) -> bool:
        """Whether a step leaves its batch out, by returning ``None`` as in Lightning."""
        # Of a first batch, nothing tells this from a loss that was forgotten.
        return not self._is_first and self.function is None and output is None and not logged

    def _loss_in(self, output: Any, logged: Mapping[str, Any]) -> Tensor:
        """Return the loss in what a step has returned or logged, with a gradient."""
        if self.function is None:
            return self._find_loss(output, logged)
        if not (isinstance(output, Tensor) and output.requires_grad):
            raise ValueError(
                f"{self.way}(loss=function) has returned no tensor with a gradient: return the "
                "loss, and do not detach it"
            )
        return output.sum()

    def _output(self, batch: Any, index: int, number: int) -> Any:
        """Return what `validation_step`, or the user's function, returns of a batch."""
        plugin = self.trainer.precision_plugin
        batch = transferred(self.trainer, self.module, batch, index)
        if self.function is not None:
            with plugin.val_step_context():
                return self.function(self.module, batch)
        arguments = [batch]
        if is_param_in_hook_signature(self.module.validation_step, "batch_idx", min_args=2):
            arguments.append(number)
        if len(self.batches.drawn) > 1 and not self.batches.together:
            arguments.append(index)
        with plugin.val_step_context(), self._naming_hooks():
            return self.module.validation_step(*arguments)

    @contextmanager
    def _naming_hooks(self) -> Iterator[None]:
        """Name the hooks that have not run, if an error may be due to these."""
        try:
            yield
        except Exception as error:
            hooks = [hook for hook in _HOOKS if is_overridden(hook, self.module)]
            if not hooks:
                raise
            raise ValueError(
                f"validation_step of {type(self.module).__name__} fails where {self.way} calls it, "
                f"which is without {' and '.join(hooks)} ({error}): make what it needs in "
                f"__init__, or write {self.way}(loss=function)"
            ) from error

    def _find_loss(self, output: Any, logged: Mapping[str, Any]) -> Tensor:
        if isinstance(output, Mapping):
            output = output.get("loss")
        if self.name is None and isinstance(output, Tensor) and output.requires_grad:
            return output.sum()
        known = {
            key: value.sum()
            for key, value in logged.items()
            if isinstance(value, Tensor) and value.requires_grad
        }
        if self.name is not None:
            # The children of a pair log under their own names.
            named = {k: v for k, v in known.items() if f"/{k}".endswith(f"/{self.name}")}
            if len(named) == 1:
                return next(iter(named.values()))
        else:
            losses = {key: value for key, value in known.items() if key.endswith("loss")}
            if len(losses or known) == 1:
                return next(iter((losses or known).values()))
        raise ValueError(self._no_loss(logged, known))

    def _no_loss(self, logged: Mapping[str, Any], known: Mapping[str, Tensor]) -> str:
        step = f"validation_step of {type(self.module).__name__}"
        # Each child of a pair logs under its own name, and all have the same losses.
        bare = {key.rpartition("/")[2] for key in known}
        names = ", ".join(map(repr, sorted(bare if len(bare) == len(known) else known)))
        if self.name is not None and known:
            return (
                f"{self.way}(loss={self.name!r}): {step} logs no value of this name that depends "
                f"on the weights: write one of {names}"
            )
        if len(known) > 1:
            return (
                f"{step} logs several values that depend on the weights, {names}, of which none, "
                f'or more than one, ends in "loss": name one, as {self.way}(loss=...)'
            )
        return (
            f"{step} neither returns nor logs a loss with a gradient (it logs "
            f"{', '.join(map(repr, logged)) or 'nothing'}): return the loss, without "
            f"torch.no_grad(), detach() or item(), or write {self.way}(loss=function)"
        )

    @contextmanager
    def _as_in_validation(self, logged: dict[str, Any]) -> Iterator[None]:
        """Catch what is logged, and undo all other effects."""
        trainer, module = self.trainer, self.module
        stage, loggers = trainer.state.stage, trainer.loggers
        stages: Any = type(stage)
        cuda = any(isinstance(own, nn.RNNBase) for own in module.modules())
        with (
            undone(module),
            torch.enable_grad(),
            _without_cudnn(cuda),
        ):
            _ignore_conversions()
            # Users' code asks for the stage, and calls loggers without `log`.
            trainer.state.stage = stages.VALIDATING
            silent: list[Any] = [_Silent(own) for own in loggers]
            trainer.loggers = silent
            vars(module)["log"] = _keep_in(logged)
            try:
                yield
            finally:
                trainer.state.stage, trainer.loggers = stage, loggers


class _Silent:
    """A logger to read directories and names from, whose methods do nothing.

    Args:
        logger: The logger that is read, and whose class `isinstance` finds.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self.experiment = imported_module("loggers.logger").DummyLogger().experiment

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # A Trainer's `log_dir` depends on the class of its logger.
        return type(self._logger)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._logger, name)
        is_plain = value is None or isinstance(value, (str, int, float, os.PathLike))
        return value if is_plain else self.experiment.nop

    def __getitem__(self, index: int) -> _Silent:
        return self


def _keep_in(logged: dict[str, Any]) -> Callable[..., None]:
    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        logged[name] = value

    return log


def _ignore_conversions() -> None:
    # In validation, no tensor requires a gradient. Not `catch_warnings`, which would show again all
    # warnings that are shown once.
    patterns = [pattern.pattern for _, pattern, *_ in warnings.filters if pattern is not None]
    if _CONVERTED not in patterns:
        warnings.filterwarnings("ignore", message=_CONVERTED)


def _without_cudnn(is_recurrent: bool) -> Any:
    # cuDNN has no gradients of recurrent layers in evaluation mode.
    if is_recurrent:
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()
