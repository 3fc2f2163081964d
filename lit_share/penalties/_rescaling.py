"""What optimizers multiply gradients with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from lit_share.penalties._optimizers import LearningRates, parts_of
from lit_share.penalties._precision import moments_of_members
from lit_share.ties import Tie


def rescaling_of_members(ties: Sequence[Tie], rates: Sequence[LearningRates]) -> dict[str, Tensor]:
    r"""Return the factors of gradients in a step, by the members' names.

    They are :math:`\text{lr} / (\sqrt{v} + \epsilon)` for ``Adam`` and ``AdamW``, whose second
    moments v are known, and :math:`\text{lr}` for others; 0 for members that no optimizer owns.
    """
    of_rates: dict[int, float] = {}
    adams: list[LearningRates] = []
    epsilons: dict[int, float] = {}
    for own in rates:
        of_groups = own.rates()
        groups = own.optimizer.param_groups
        of_rates |= {key: of_groups[group] for key, group in own.groups.items()}
        if all(isinstance(part, (Adam, AdamW)) for part in parts_of(own.optimizer)):
            adams.append(own)
            epsilons |= {key: groups[group]["eps"] for key, group in own.groups.items()}
    moments = moments_of_members(ties, adams)
    factors: dict[str, Tensor] = {}
    for tie in ties:
        for member, parameter in zip(tie.members, tie.parameters, strict=True):
            rate, moment = of_rates.get(id(parameter), 0.0), moments[member.name]
            if id(parameter) in epsilons:
                factors[member.name] = rate / (moment.sqrt() + epsilons[id(parameter)])
            else:
                factors[member.name] = torch.full_like(moment, rate)
    return factors
