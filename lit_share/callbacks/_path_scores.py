"""Scores of validation data with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torchmetrics import Metric
from typing_extensions import override

from lit_share.callbacks._validation_loss import ValidationLoss
from lit_share.penalties import Path

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# Fewer batches of a loader are split, as a standard error of few numbers is itself uncertain.
LEAST_BATCHES = 10


class Score(NamedTuple):
    """A mean over validation data and its standard error; ``None`` if that is unknown."""

    value: float
    error: float | None


class ValidationScores(ValidationLoss):
    """The score of all validation batches, without effects on anything else.

    Args:
        trainer: The trainer, in training.
        module: The module that it trains.
        path: What is measured, on which data; see `Path` for the formulas.

    Attributes:
        is_of_batches: Whether the score is that of batches; otherwise the module logs it at the end
            of validation.

    Raises:
        ValueError: If there is no `validation_step`, no batch, or neither a loss nor a ``monitor``.
    """

    way = "Path"

    def __init__(self, trainer: Trainer, module: LightningModule, path: Path) -> None:
        self.monitor, self.is_of_batches = path.monitor, True
        super().__init__(trainer, module, path.loader, path.loss)

    def measure(self) -> Score:
        """Return the score at the present weights, the same on all ranks."""
        records: list[list[tuple[float, int]]] = []
        logged: dict[str, Any] = {}
        with self._as_in_validation(logged), torch.set_grad_enabled(self.monitor is None):
            for index, batches in enumerate(self.batches.in_order()):
                own: list[tuple[float, int]] = []
                for number, batch in _pieces(batches):
                    value = self._value(batch, index, number, logged)
                    if value is not None:
                        own.append((value, _size(batch)))
                records.append(own)
        scores = [self._of_loader(own) for own in records]
        known = [score for score in scores if score is not None]
        if not known:
            raise ValueError(
                f"the Trainer's validation data have no batch, or none is evaluated: {self._hint}"
            )
        # Loaders have different examples, so their errors are independent.
        errors = [score.error for score in known]
        error = None
        if None not in errors:
            error = math.sqrt(sum(own * own for own in errors if own is not None))
        return Score(sum(score.value for score in known), error)

    @property
    def _hint(self) -> str:
        return "give fit a validation loader with examples, or write Path(loader=...)"

    def _of_loader(self, records: list[tuple[float, int]]) -> Score | None:
        """Return the weighted mean of all ranks' batches; ``None`` if there are none."""
        count, total, weighted = self._sums(
            [len(records), sum(n for _, n in records), sum(n * value for value, n in records)]
        )
        if count == 0.0:
            return None
        mean = weighted / total
        (squares,) = self._sums([sum((n / total * (value - mean)) ** 2 for value, n in records)])
        # A single number says nothing of how much it varies.
        if count == 1.0:
            return Score(mean, None)
        return Score(mean, math.sqrt(count / (count - 1.0) * squares))

    def _sums(self, numbers: list[float]) -> list[float]:
        """Return the sums over ranks."""
        if self.trainer.world_size == 1:
            return numbers
        message = torch.tensor(numbers, dtype=torch.float64, device=self.module.device)
        received = self.trainer.strategy.reduce(message, reduce_op="sum")
        assert isinstance(received, Tensor)
        return received.tolist()

    def _value(self, batch: Any, index: int, number: int, logged: dict[str, Any]) -> float | None:
        logged.clear()
        if self.monitor is None:
            output = self._output(batch, index, number)
            if self._is_skipped(output, logged):
                return None
            return float(self._loss_in(output, logged).detach())
        # A metric adds batches up, whose values are asked for one by one; its state is put back.
        for metric in self._metrics():
            metric.reset()
        self._output(batch, index, number)
        for name in (self.monitor, self.monitor.removesuffix(f"/dataloader_idx_{index}")):
            value = logged.get(name)
            if isinstance(value, Metric):
                # The sums over ranks are those of their batches.
                vars(value)["_to_sync"] = False
                value = value.compute()
            if value is not None:
                return float(value)
        return None

    @override
    def _loss_in(self, output: Any, logged: Mapping[str, Any]) -> Tensor:
        """Return the loss in an output, which needs no gradient."""
        if self.function is None:
            return self._find_loss(output, logged)
        if not isinstance(output, Tensor):
            raise ValueError(
                "Path(loss=function) has returned no tensor: return the loss as a tensor"
            )
        return output.sum()

    @override
    def _find_loss(self, output: Any, logged: Mapping[str, Any]) -> Tensor:
        returned = output
        if isinstance(output, Mapping):
            returned = output.get("loss")
        known = {key: value for key, value in logged.items() if _is_number(value)}
        ending, given = "loss", ""
        if self.name is not None:
            # The children of a pair log under their own names.
            ending, given = f"/{self.name}", f"Path(loss={self.name!r}): "
        named = [value for key, value in known.items() if f"/{key}".endswith(ending)]
        if self.name is not None and len(named) == 1:
            return named[0]
        # Gradients tell which value is the loss, where there are any.
        if any(isinstance(v, Tensor) and v.requires_grad for v in (*logged.values(), returned)):
            return super()._find_loss(output, logged)
        if self.name is None and _is_number(returned):
            return returned
        if len(named) == 1:
            return named[0]
        raise ValueError(
            f"{given}validation_step of {type(self.module).__name__} returns no loss, and of what "
            f"it logs ({', '.join(map(repr, logged)) or 'nothing'}), {len(named)} could be it: "
            "return the loss, or name a logged value by Path(monitor=...)"
        )

    @override
    def _compute(self) -> dict[int, Tensor]:
        # Scores need no backward pass, whose gradient the loss may not have.
        logged: dict[str, Any] = {}
        with self._as_in_validation(logged):
            self._loss(logged)
        return {}

    def _metrics(self) -> Iterator[Metric]:
        return (own for own in self.module.modules() if isinstance(own, Metric))

    @override
    def _try(self) -> None:
        if self.monitor is None:
            super()._try()
            return
        logged: dict[str, Any] = {}
        with self._as_in_validation(logged), torch.no_grad():
            firsts = [next(own, None) for own in self.batches.in_order()]
            values = [
                self._value(batch, index, 0, logged)
                for index, batch in enumerate(firsts)
                if batch is not None
            ]
        found = any(value is not None for value in values)
        # Ranks measure together, or not at all.
        (ranks,) = self._sums([float(found)])
        self.is_of_batches = ranks > 0.0


def _pieces(batches: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    """Yield batches with their numbers; if they are few, pieces of them."""
    first = list(islice(batches, LEAST_BATCHES))
    pieces = math.ceil(LEAST_BATCHES / max(1, len(first)))
    for number, batch in enumerate(chain(first, batches)):
        yield from ((number, piece) for piece in _split(batch, pieces))


def _split(batch: Any, pieces: int) -> list[Any]:
    """Return the pieces of a batch of tensors whose dim 0 has the same length."""
    lengths = {len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim}
    if len(lengths) != 1:
        # It is not known which of the tensors have an entry for each example.
        return [batch]
    pieces = min(pieces, *lengths)

    def piece(i: int) -> Any:
        def cut(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.ndim:
                return leaf.tensor_split(pieces)[i]
            return leaf

        return tree_map(cut, batch)

    return [piece(i) for i in range(pieces)]


def _is_number(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.numel() == 1


def _size(batch: Any) -> int:
    """Return the length of the first tensor, or 1."""
    tensors = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim)
    return next((len(tensor) for tensor in tensors), 1)
