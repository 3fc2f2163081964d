"""`Share`: hard sharing in `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from typing_extensions import override

from lit_share.aliases import verify_shared
from lit_share.huggingface._files import declare_shared
from lit_share.huggingface._transformers import PreTrainedModel, TrainerCallback, refuse_strategy
from lit_share.sharing import CANNOT_SHARE_NUMBERS, Init, share
from lit_share.text import check_choice
from lit_share.ties import Tie, TieError, Ties, as_ties


class Share(TrainerCallback):
    """Make the members of each tie one Parameter, when a `transformers.Trainer` is made.

    The Trainer makes its optimizer afterwards, so a shared parameter is stepped once. Its
    checkpoints store it once, too; `from_pretrained` of this module loads them. At every epoch and
    evaluation the callback verifies that the parameters are still shared.

    Args:
        ties: Which parameters are shared, or a list of patterns for `Ties`.
        init: The shared value: the ``"mean"`` of the members, or the ``"first"`` member.
        buffers: Whether buffers whose names match the patterns are shared, too.

    Raises:
        TieError: When the Trainer is made, if the ties do not fit the model or cannot be shared
            (see `lit_share.share`), an optimizer was made before, or the Trainer could not save the
            model. When training begins, if the Trainer had no model when it got the callback.
            Later, if shared parameters are no longer shared.
        ValueError: If parameters are sharded, by DeepSpeed, FSDP or tensor parallelism.

    Example:
        >>> one_copy = Share(["encoder.*", "decoder.*"], init="first")
        >>> trainer = Trainer(model, args, callbacks=[one_copy])  # doctest: +SKIP
    """

    def __init__(
        self, ties: Ties | Sequence[str], init: Init = "mean", buffers: bool = False
    ) -> None:
        ties = as_ties(ties)
        ties.refuse_numbers(CANNOT_SHARE_NUMBERS)
        check_choice("init", init, Init)
        self.ties, self.init, self.buffers = ties, init, buffers
        self.found: list[Tie] = []
        self._module: nn.Module | None = None

    @override
    def on_init_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        if model is None:
            return  # `model_init` makes it when training begins
        found = self.ties.find(model)
        if optimizer is not None and not all(tie.is_shared for tie in found):
            raise TieError(
                f"the optimizer was made before {self.ties} were shared, and would step parameters "
                "that the model no longer has: let the Trainer make it, as with "
                "optimizer_cls_and_kwargs, or make it after lit_share.share(model, ties)"
            )
        saves = getattr(args.save_strategy, "value", args.save_strategy) != "no"
        if saves and not hasattr(model, "save_pretrained"):
            raise TieError(
                f"the Trainer saves a {type(model).__name__} as a plain state dict, in which "
                "parameters must not be shared: derive it from transformers.PreTrainedModel, or "
                "write save_strategy='no' and save with lit_share.save_compact"
            )
        share(model, self.ties, self.init, buffers=self.buffers)
        self.found, self._module = self.ties.find(model), model
        # Adapters of peft save copies.
        if saves and isinstance(model, PreTrainedModel):
            declare_shared(model)

    @override
    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        refuse_strategy(self, optimizer)
        if model is not self._module:
            raise TieError(
                f"{self.ties} are not shared, as the Trainer had no model yet when it got Share: "
                "pass the callback to Trainer(model=..., callbacks=[...]), or call lit_share.share "
                "in model_init"
            )
        verify_shared(model)

    @override
    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any
    ) -> None:
        verify_shared(model)

    @override
    def on_evaluate(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        verify_shared(model)
