"""The precision of a penalty's members during a training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lit_share.functional import Penalty
from lit_share.penalties._optimizers import LearningRates
from lit_share.penalties._precision import (
    ADAM,
    Precision,
    check_given,
    check_optimizers,
    check_values,
    has_moments,
    like_members,
    load_precision,
    moments_of_members,
    precision_of_members,
)
from lit_share.ties import Tie, full_on_host


class MemberPrecision:
    """Where a precision comes from, and what is kept of it.

    With starting values as the center, a precision belongs to them: it is taken once, when training
    begins. Adam's second moments with other centers are read at every step.

    Attributes:
        given: What the user gave.
        is_live: Whether Adam's second moments are read at every step.
        kept: By the members' names, empty until training begins.

    Args:
        penalty: The penalty.
        given: The argument ``precision`` of `PenaltySteps`.

    Raises:
        TypeError: If ``given`` has a wrong type.
        ValueError: If it is missing, unknown, or not supported by the penalty.
    """

    def __init__(self, penalty: Penalty, given: Precision | None) -> None:
        check_given(penalty, given)
        self.given = given
        self.is_live = given == ADAM and not penalty.centering.needs_start
        self.kept: dict[str, Tensor] = {}
        # Between `check` and `open`, so that a file is read once.
        self._loaded: dict[str, Tensor] = {}

    @property
    def is_kept(self) -> bool:
        """Whether numbers are kept for the rest of training."""
        return self.given is not None and not self.is_live

    def check(self, module: nn.Module, ties: Sequence[Tie], rates: Sequence[LearningRates]) -> None:
        """Raise if the precision does not fit the members, or optimizers have no moments."""
        if self.given is None:
            return
        if self.given == ADAM:
            check_optimizers(ties, rates)
            return
        self._loaded = self._load(module, ties)
        check_values(self._loaded)

    def open(
        self, module: nn.Module, ties: Sequence[Tie], rates: Sequence[LearningRates]
    ) -> Mapping[str, Tensor] | None:
        """Return the precision sharded like the members; take it unless it is kept already.

        Raises:
            ValueError: If optimizers have no second moments of what was learned before.
        """
        if self.given is None:
            return None
        if self.is_live:
            return moments_of_members(ties, rates)
        # A checkpoint may be of other ties.
        if not all(member.name in self.kept for tie in ties for member in tie.members):
            self.kept = self._take(module, ties, rates) | self.kept
        self.kept = like_members(self.kept, ties)
        self._loaded = {}
        return self.kept

    def now(
        self, module: nn.Module, ties: Sequence[Tie], rates: Sequence[LearningRates]
    ) -> Mapping[str, Tensor] | None:
        """Return the present precision, for the penalty's value."""
        if self.given is None:
            return None
        # After training, there are no optimizers, and `keep_moments` has kept theirs.
        if self.is_live and rates:
            return moments_of_members(ties, rates)
        if self.is_live and not self.kept:
            raise ValueError(
                f"precision={ADAM!r} is that of optimizers, and none is attached: call attach first"
            )
        return self.kept or self._take(module, ties, rates)

    def keep_moments(self, ties: Sequence[Tie], rates: Sequence[LearningRates]) -> None:
        """Keep the second moments, as the penalty's value needs them without the optimizers."""
        if self.is_live and rates:
            self.kept = moments_of_members(ties, rates)

    def warn_of_missing_moments(self, ties: Sequence[Tie], rates: Sequence[LearningRates]) -> None:
        """Warn if optimizers have no second moment of any member after an epoch."""
        if self.is_live and not has_moments(ties, rates):
            warnings.warn(
                f"no optimizer has second moments of {ties[0].name!r} or another tie, so the "
                f"penalty with precision={ADAM!r} does nothing: check that their members get "
                "gradients and are trained",
                stacklevel=4,
            )

    def state(self) -> dict[str, Tensor]:
        """Return full tensors on the host, for a checkpoint."""
        return {name: full_on_host(weights) for name, weights in self.kept.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned, unless there is no precision any more."""
        self.kept = {}
        if self.given is not None:
            self.kept = dict(state)

    def _take(
        self, module: nn.Module, ties: Sequence[Tie], rates: Sequence[LearningRates]
    ) -> dict[str, Tensor]:
        if self.given != ADAM:
            return self._loaded or self._load(module, ties)
        if not has_moments(ties, rates):
            raise ValueError(
                f"precision={ADAM!r} with starting values as the center is that of what was "
                "learned before, and these optimizers have not stepped yet: pass "
                "precision=lit_share.second_moments(module, optimizer), with the optimizer that "
                "has trained the module"
            )
        return moments_of_members(ties, rates)

    def _load(self, module: nn.Module, ties: Sequence[Tie]) -> dict[str, Tensor]:
        given = self.given
        assert given is not None
        if not isinstance(given, Mapping):
            given = load_precision(given)
        return precision_of_members(module, ties, given)
