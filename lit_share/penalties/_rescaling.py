"""What optimizers multiply gradients with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Adam, AdamW

from lit_share.penalties._optimizers import LearningRates, parts_of


def rescaled(gradients: Mapping[int, Tensor], rates: Sequence[LearningRates]) -> dict[int, Tensor]:
    r"""Multiply gradients as optimizers do in a step, up to a factor that is common to all.

    The factors are :math:`\text{lr} / (\sqrt{v} + \epsilon)` for ``Adam`` and ``AdamW``, with the
    second moments v before bias correction (with ``amsgrad``, the largest so far), and
    :math:`\text{lr}` for other optimizers.

    Args:
        gradients: By the ``id`` of parameters; those that no optimizer owns are left out.
        rates: The optimizers.
    """
    scaled: dict[int, Tensor] = {}
    for own in rates:
        of_groups, groups = own.rates(), own.optimizer.param_groups
        # Others may keep moments, too, but divide by them in another way.
        state: Mapping[Tensor, Any] = {}
        if all(isinstance(part, (Adam, AdamW)) for part in parts_of(own.optimizer)):
            state = own.optimizer.state
        for group, rate in zip(groups, of_groups, strict=True):
            # A checkpoint may have moments of both kinds.
            key = "exp_avg_sq"
            if group.get("amsgrad"):
                key = "max_exp_avg_sq"
            for parameter in group["params"]:
                gradient = gradients.get(id(parameter))
                if gradient is None:
                    continue
                moment = state.get(parameter, {}).get(key)
                if moment is not None:
                    gradient = gradient / moment.sqrt().add_(group["eps"])
                scaled[id(parameter)] = gradient * rate
    return scaled
