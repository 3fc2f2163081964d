"""The algebra in place, with a list for each thing that belongs to ties."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lit_share import functional
from lit_share.functional import Penalty, Shard, TieTensors

Tensors = Sequence[Tensor]


def add_gradient_(
    penalty: Penalty,
    ties: Sequence[Tensors],
    grads: Sequence[Sequence[Tensor | None]],
    strength: float,
    starts: Sequence[Tensors | None] | None = None,
    shards: Sequence[Shard | None] | None = None,
) -> None:
    nothing = [None] * len(ties)
    made = [
        TieTensors(members, grads=own, start=start, shard=shard)
        for members, own, start, shard in zip(
            ties, grads, starts or nothing, shards or nothing, strict=True
        )
    ]
    functional.add_gradient_(penalty, made, strength)


def prox_(
    penalty: Penalty,
    ties: Sequence[Tensors],
    steps: Sequence[float | Sequence[float]],
    starts: Sequence[Tensors | None] | None = None,
    frozen: Sequence[Tensor | None] | None = None,
    shards: Sequence[Shard | None] | None = None,
) -> None:
    nothing = [None] * len(ties)
    made = [
        TieTensors(
            members,
            steps=[step] * len(members) if isinstance(step, float) else step,
            start=start,
            frozen=mask,
            shard=shard,
        )
        for members, step, start, mask, shard in zip(
            ties, steps, starts or nothing, frozen or nothing, shards or nothing, strict=True
        )
    ]
    functional.prox_(penalty, made)
