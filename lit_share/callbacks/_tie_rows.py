"""`TieRows`: codebook layers in a Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lit_share.aliases import Inputs
from lit_share.callbacks._batches import Batches
from lit_share.callbacks._capture import refuse_unsupported_step, run_steps
from lit_share.callbacks._mixture import warn_of_mixture
from lit_share.callbacks._one_trainer import is_of, refuse_two_trainers
from lit_share.callbacks._random_state import same_random_state
from lit_share.callbacks._share import DependsOnShapes
from lit_share.callbacks._strategies import refuse_strategy, unwrap_methods, wrap_methods
from lit_share.codebooks import (
    MethodName,
    RowReport,
    RowsBy,
    call_with,
    check_clustering,
    cluster_inputs,
    covariances,
    find_row_layers,
    match_codebooks,
    row_report,
    tie_found,
    tie_rows,
)
from lit_share.lightnings import Callback, is_a
from lit_share.sharing import OptimizerTransfer
from lit_share.text import check_choice
from lit_share.ties import ParameterRef, TieError, Ties, as_ties, is_fsdp_module

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# Methods of the strategy that a Trainer calls without a callback hook: before it loads weights, and
# before it wraps the complete module and makes optimizers.
_WRAPPED = ("load_model_state_dict", "setup")


class TieRows(Callback):
    """Replace layers by codebook layers, before training or before a later epoch; see `tie_rows`.

    With ``by="data"`` the rows of inputs that vary together become one. If no ``inputs`` are given,
    the callback runs `training_step` once with each batch of the training data, in evaluation mode
    and without gradients, and notes what the layers are called with. Nothing is logged meanwhile,
    and random state, buffers, metrics and attributes of the LightningModule are restored. With
    several processes each reads its share of the data, and all find the same clusters.

    With ``by="weights"`` and an ``epoch``, rows that a penalty made alike are tied before that
    epoch; give the penalty a schedule that ends there.

    A checkpoint has the codebooks, and is loaded into a module that has none yet, or others.

    Args:
        ties: The weights of the layers, or a list of patterns; see `tie_rows`.
        by: What is compared: the ``"weights"``, or their inputs in ``"data"``.
        similarity: See `tie_rows`.
        clusters: The number of clusters of each layer, for ``by="data"``, in place of
            ``similarity``.
        method: The clustering method of weights; see `cluster_rows`.
        inputs: Batches of what the module's forward takes, for ``by="data"``; ``None``: those of
            the training data.
        batches: The number of batches that are read, at most; ``None``: all.
        hidden: Whether layers are tied whose inputs depend on trained parameters; see `tie_rows`.
        epoch: The epoch before which rows are tied; 0 is before training. A later epoch needs
            training in a single process.

    Attributes:
        report: The clusters of each layer; ``None`` until then. Its text is printed.

    Raises:
        TieError: Before training, if the ties do not fit the module, rows cannot be tied (see
            `tie_rows`), parameters are sharded, or another callback stores tensors in their shapes.
        ValueError: If an argument is out of its range, the strategy is FSDP1 or DeepSpeed, or
            `training_step` fails in evaluation mode.

    Example:
        >>> tie = TieRows(Ties("net.0.weight"), by="data", similarity=0.5)
        >>> trainer = Trainer(callbacks=[tie])  # doctest: +SKIP
    """

    def __init__(
        self,
        ties: Ties | Sequence[Ties] | Sequence[str],
        by: RowsBy,
        similarity: float = 0.7,
        clusters: int | None = None,
        method: MethodName = "auto",
        inputs: Iterable[Inputs] | None = None,
        batches: int | None = None,
        hidden: bool = True,
        epoch: int = 0,
    ) -> None:
        check_choice("by", by, RowsBy)
        check_choice("method", method, MethodName)
        check_clustering(similarity, clusters)
        for name, value in {"inputs": inputs, "clusters": clusters, "batches": batches}.items():
            if by == "weights" and value is not None:
                raise ValueError(f'{name} has no effect with by="weights": write by="data"')
        if isinstance(inputs, Iterator):
            raise ValueError(
                f"inputs is a {type(inputs).__name__}, which can be read only once: give a list of "
                "batches or a DataLoader"
            )
        if batches is not None and (not isinstance(batches, int) or batches < 1):
            raise ValueError(f"batches must be a whole number >= 1 or None, got {batches!r}")
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a whole number >= 0, got {epoch!r}")
        self.ties, self.by, self.similarity, self.clusters = as_ties(ties), by, similarity, clusters
        self.method, self.inputs, self.batches = method, inputs, batches
        self.hidden, self.epoch = hidden, epoch
        self.report: RowReport | None = None
        self._is_done = False
        self._module: LightningModule | None = None

    @property
    @override
    def state_key(self) -> str:
        """The key in checkpoints, distinct for the ties of one Trainer."""
        return self._generate_state_key(ties=repr(self.ties), epoch=self.epoch)

    def __repr__(self) -> str:
        return f"TieRows({self.ties!r}, by={self.by!r}, epoch={self.epoch})"

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"is_done": self._is_done}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._is_done = state_dict["is_done"]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_strategy(self, trainer.strategy, "call lit_share.tie_rows before the fit")
        refuse_two_trainers(self, trainer)
        warn_of_mixture(trainer)
        if pl_module is not self._module or (stage == "fit" and trainer.global_step == 0):
            # `fit` starts a new training; resuming loads a checkpoint only after `setup`.
            self._is_done, self.report = False, None
        self._module = pl_module
        if stage == "fit":
            self._refuse_averages(trainer)
            if self.epoch > 0 and trainer.world_size > 1:
                raise TieError(
                    f"TieRows(epoch={self.epoch}) works in one process, but the Trainer has "
                    f"{trainer.world_size}: write epoch=0"
                )
            if self.by == "data" and self.inputs is None:
                refuse_unsupported_step(pl_module)
        wrap_methods(trainer.strategy, _WRAPPED, partial(self._wrapped, trainer, pl_module))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done:
            return
        names = set(find_row_layers(pl_module, self.ties, self.by))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, DependsOnShapes):
                callback.refuse_new_shapes(pl_module, names, repr(self))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tie_when_due(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # Lightning skips `on_train_epoch_start` after resuming from a checkpoint of an epoch's last
        # batch.
        self._tie_when_due(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_done:
            warnings.warn(
                f"training ended before epoch {self.epoch}, so {self!r} tied nothing", stacklevel=2
            )

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._clean_up(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if is_of(self, trainer):
            self._clean_up(trainer)

    def _tie_when_due(self, trainer: Trainer, module: LightningModule) -> None:
        if self._is_done or trainer.current_epoch < self.epoch:
            return
        # The optimizer's state is keyed by Parameter objects, which codebooks replace.
        transfer = OptimizerTransfer(trainer.optimizers, module)
        self._tie(trainer, module)
        transfer.finish()

    def _tie(self, trainer: Trainer, module: LightningModule) -> None:
        if self.by == "weights":
            self.report = tie_rows(module, self.ties, self.similarity, self.method)
        else:
            self.report = self._tie_by_data(trainer, module)
        self._is_done = True
        rank_zero_info(f"{self!r}:\n{self.report}")

    def _tie_by_data(self, trainer: Trainer, module: LightningModule) -> RowReport:
        layers = find_row_layers(module, self.ties, self.by)
        if self.inputs is None:
            # The Trainer gets its loaders once, here rather than when the loop starts.
            trainer.fit_loop.setup_data()
        with same_random_state():
            found = covariances(layers, lambda: self._run(trainer, module), self.hidden)
        if all(covariance is None for covariance in found.values()):
            warnings.warn(
                f"{self!r} ties nothing, as the inputs of all layers depend on parameters that are "
                "trained: write hidden=True, or other ties",
                stacklevel=2,
            )
        assignments: list[Tensor | None] = []
        for covariance in found.values():
            if covariance is None:
                assignments.append(None)
                continue
            if trainer.world_size > 1 and self.inputs is None:
                covariance.all_reduce(partial(_sum_over_ranks, trainer))
            labels = cluster_inputs(covariance, self.similarity, self.clusters)
            assignments.append(trainer.strategy.broadcast(labels))
        return tie_found(module, layers, assignments)

    def _run(self, trainer: Trainer, module: LightningModule) -> None:
        """Call the module with all data."""
        if self.inputs is not None:
            move = partial(trainer.strategy.batch_to_device, dataloader_idx=0)
            call_with(module, map(move, islice(self.inputs, self.batches)))
            return
        loop = trainer.fit_loop
        limit = loop.max_batches if self.batches is None else min(self.batches, loop.max_batches)
        if limit == float("inf"):
            raise ValueError(
                f"{self!r} would read the training data for ever, as their loader has no length: "
                "write batches="
            )
        drawn = Batches(loop._combined_loader, [limit], "TieRows").in_order()
        run_steps(trainer, module, islice(chain.from_iterable(drawn), int(limit)))

    def _wrapped(
        self,
        trainer: Trainer,
        module: LightningModule,
        name: str,
        method: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Tie rows if that is due, then return ``method(*args, **kwargs)``."""
        if name == "load_model_state_dict":
            self._match_checkpoint(module, *args, **kwargs)
        elif trainer.state.fn == "fit" and self.epoch == 0 and not self._is_done:
            # The module is complete, and is neither on its device nor wrapped yet.
            if any(is_fsdp_module(child) for child in module.modules()):
                raise TieError(
                    f"{self!r} needs complete weights, which fully_shard has distributed over "
                    "processes: call lit_share.tie_rows before fully_shard instead"
                )
            module.to(trainer.strategy.root_device)
            self._tie(trainer, module)
        result = method(*args, **kwargs)
        if name == "load_model_state_dict":
            self.report = row_report(self._weights(module)) if self._is_done else None
        return result

    def _weights(self, module: LightningModule) -> list[ParameterRef]:
        return [member.ref for tie in self.ties.find(module) for member in tie.members]

    def _match_checkpoint(
        self, module: LightningModule, checkpoint: Mapping[str, Any], **_: Any
    ) -> None:
        weights = self._weights(module)
        state = checkpoint["state_dict"]
        try:
            match_codebooks(module, weights, state)
        except ValueError as error:
            message = f"the checkpoint has codebooks, and a layer of {self!r} {error}"
            raise TieError(message) from None
        self._is_done = any(_assignment(ref) in state for ref in weights)

    def _clean_up(self, trainer: Trainer) -> None:
        unwrap_methods(trainer.strategy, _WRAPPED)

    def _refuse_averages(self, trainer: Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if is_a(callback, "WeightAveraging", "StochasticWeightAveraging"):
                raise TieError(
                    f"{type(callback).__name__} cannot follow {self!r}, as it copies the "
                    "parameters before: call lit_share.tie_rows before the fit"
                )


def _assignment(ref: ParameterRef) -> str:
    return ref.name.removesuffix("weight") + "assignment"


def _sum_over_ranks(trainer: Trainer, tensor: Tensor) -> Tensor:
    on_device = tensor.to(trainer.strategy.root_device)
    return trainer.strategy.reduce(on_device, reduce_op="sum").cpu()
