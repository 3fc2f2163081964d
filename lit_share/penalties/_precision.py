"""The precision of members: from a mapping, a file, or the second moments of Adam."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from lit_share.functional import Penalty
from lit_share.penalties._optimizers import LearningRates, parameters_of, parts_of
from lit_share.ties import (
    Member,
    ParameterRef,
    Tie,
    by_unwrapped_name,
    full_tensor,
    like_parameter,
    parameter_refs,
    shortened,
)

# The precision of parameters by their names, a file of it, or "adam".
Precision = Mapping[str, Tensor] | str | PathLike[str]
ADAM = "adam"
_SAFETENSORS, _TORCH = (".safetensors",), (".pt", ".pth")
# What Adam calls its second moment.
_STATE = "exp_avg_sq"


def second_moments(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    r"""Return Adam's second moments, an estimate of the diagonal of the Fisher information.

    Adam averages the squared gradients g of *batches*; its bias is corrected as in its own step k:

    .. math::
        \hat v = \frac{1 - \beta_2}{1 - \beta_2^k} \sum_{j \le k} \beta_2^{k - j} g_j^2

    Gradients of batches of B examples are averages, so it is about 1 / B of what `fisher` returns,
    at weights that were still moving, and includes what penalties and weight decay add to
    gradients. It costs no pass over the data.

    Args:
        module: The module.
        optimizer: The ``Adam`` or ``AdamW`` (fused, amsgrad, …) that has trained it.

    Returns:
        A tensor like each parameter that the optimizer has moved, by the parameter's name, in
        float32 for half precision; for ``precision=`` of `PenaltySteps`.

    Raises:
        TypeError: If the optimizer has no second moments.
        ValueError: If it has not moved a parameter of the module yet.

    Source:
        Kingma, Ba: *Adam: A Method for Stochastic Optimization*, ICLR 2015, Section 3.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> adam = torch.optim.Adam(layer.parameters())
        >>> layer(torch.tensor([3.0, 0.5])).backward()
        >>> adam.step()
        >>> second_moments(layer, adam)
        {'weight': tensor([[9.0000, 0.2500]])}
    """
    for part in parts_of(optimizer):
        _check_has_moments(part)
    own = _Moments(LearningRates(optimizer))
    parameters = by_unwrapped_name(dict(module.named_parameters()))
    moments = {n: full_tensor(own.of(p)) for n, p in parameters.items() if own.has(p)}
    if not moments:
        raise ValueError(
            f"this {type(optimizer).__name__} has no second moments of the module's parameters: "
            "give the optimizer that has trained them, after its training"
        )
    return moments


def check_given(penalty: Penalty, precision: Precision | None) -> None:
    """Raise `TypeError` or `ValueError` if a precision is wrong, or missing for the penalty."""
    if precision is None:
        penalty.check_precision(None)
        return
    if not isinstance(precision, (Mapping, str, PathLike)):
        raise TypeError(
            "precision must be a mapping from names of parameters to tensors, as "
            f"lit_share.fisher(module, batches) returns, a file of it, or {ADAM!r}: got "
            f"{type(precision).__name__}"
        )
    penalty.check_precision(())
    if isinstance(precision, Mapping) or precision == ADAM:
        return
    if Path(precision).suffix not in _SAFETENSORS + _TORCH:
        # Batches of the training that begins would tell nothing of what was learned before it.
        raise ValueError(
            f"unknown precision {fspath(precision)!r}: write {ADAM!r}, a file that ends in "
            f"{' or '.join(_SAFETENSORS + _TORCH)}, or give what lit_share.fisher(module, batches) "
            "returns, with batches of what was learned before"
        )


def load_precision(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Load the precision of parameters by their names from a safetensors or torch file.

    Raises:
        ValueError: If there is no such file, or it contains other objects.
    """
    name = fspath(path)
    if not Path(path).is_file():
        save = "safetensors.torch.save_file"
        if Path(path).suffix in _TORCH:
            save = "torch.save"
        raise ValueError(
            f"precision={name!r} is not a file: save what lit_share.fisher(module, batches) "
            f"returned there, with {save}"
        )
    loaded: Any
    try:
        if Path(path).suffix in _SAFETENSORS:
            # Only those who have such a file need the library.
            from safetensors.torch import load

            # The file is read here, as the library would map it, and see later changes of it.
            loaded = load(Path(path).read_bytes())
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    # Files of other formats raise many kinds of errors.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"precision={name!r} cannot be read as its ending says: {reason}"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise ValueError(
            f"precision={name!r} must contain a dict from names of parameters to tensors, as "
            "lit_share.fisher(module, batches) returns it"
        )
    return loaded


def precision_of_members(
    module: nn.Module, ties: Sequence[Tie], given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the precision of members by their names, given that of parameters by theirs.

    Raises:
        ValueError: Naming the parameters, if some are missing or have other shapes.
    """
    # Compilation may have begun since, which changes names.
    given = by_unwrapped_name(given)
    aliases: dict[int, list[ParameterRef]] = {}
    for ref in parameter_refs(module):
        aliases.setdefault(id(ref.parameter), []).append(ref)
    found: dict[str, Tensor] = {}
    missing: list[str] = []
    for member in _members(ties):
        # A mapping of `named_parameters` has a single one of the names of a shared parameter.
        refs = [member.ref, *aliases.get(id(member.parameter), [])]
        known = [ref for ref in refs if ref.name in given]
        if not known:
            missing.append(member.ref.name)
            continue
        ref = known[0]
        weights = given[ref.name].detach()
        if ref.is_transposed:
            weights = weights.T
        if weights.shape != member.parameter.shape:
            raise ValueError(
                f"precision of {ref.name!r} has shape {tuple(weights.shape)}, but the parameter "
                f"has {tuple(member.parameter.shape)}: compute it of this module, with "
                "lit_share.fisher(module, batches)"
            )
        found[member.name] = member.view(weights)
    if missing:
        raise ValueError(
            f"precision has no entry of {_named(dict.fromkeys(missing))}: compute it of the module "
            "that is trained, with lit_share.fisher(module, batches), or exclude them from the "
            f"ties; it has {_named(given) or 'no entries'}"
        )
    return found


def check_values(precision: Mapping[str, Tensor]) -> None:
    """Raise or warn, naming the members, if a precision cannot pull them.

    Raises:
        ValueError: If numbers are negative, NaN or infinite, or all of them are zero.

    Warns:
        UserWarning: If all numbers of a member are zero.
    """
    for name, weights in precision.items():
        # NaN fails both comparisons.
        if not bool(((weights >= 0.0) & (weights < math.inf)).all()):
            raise ValueError(
                f"precision of {name!r} has numbers that are negative, NaN or infinite: it must "
                "be finite and at least 0, as squared gradients are"
            )
    # A penalty of zeros looks like one that works: nothing else would ever tell.
    zero = [name for name, weights in precision.items() if not weights.any()]
    if zero and len(zero) == len(precision):
        raise ValueError(
            f"precision of {_named(zero)} is zero in every element, so that the penalty would do "
            "nothing: compute it with a loss that depends on these parameters"
        )
    if zero:
        warnings.warn(
            f"precision of {_named(zero)} is zero in every element, so that the penalty does not "
            "pull them: exclude them from the ties if that is meant",
            stacklevel=5,
        )


def like_members(precision: Mapping[str, Tensor], ties: Sequence[Tie]) -> dict[str, Tensor]:
    """Return the precision on the members' devices and with their shards, at least float32."""
    placed: dict[str, Tensor] = {}
    for tie in ties:
        for member, tensor in zip(tie.members, tie.tensors(), strict=True):
            weights = precision[member.name]
            placed[member.name] = like_parameter(weights, tensor, _wide(tensor))
    return placed


def check_optimizers(ties: Sequence[Tie], rates: Sequence[LearningRates]) -> None:
    """Raise `TypeError`, naming the optimizer, if it moves members without a second moment."""
    tied = {id(parameter) for tie in ties for parameter in tie.parameters}
    for own in rates:
        for optimizer in parts_of(own.optimizer):
            if any(id(parameter) in tied for parameter in parameters_of([optimizer])):
                _check_has_moments(optimizer)


def has_moments(ties: Sequence[Tie], rates: Sequence[LearningRates]) -> bool:
    """Whether any optimizer has a second moment of a member."""
    moments = [_Moments(own) for own in rates]
    parameters = [parameter for tie in ties for parameter in tie.parameters]
    return any(own.has(parameter) for parameter in parameters for own in moments)


def moments_of_members(ties: Sequence[Tie], rates: Sequence[LearningRates]) -> dict[str, Tensor]:
    """Return Adam's second moments by the members' names; those without any have zeros."""
    moments = [_Moments(own) for own in rates]
    of_parameters: dict[int, Tensor] = {}
    of_members: dict[str, Tensor] = {}
    for tie in ties:
        for member, parameter in zip(tie.members, tie.parameters, strict=True):
            if id(parameter) not in of_parameters:
                found = [own.of(parameter) for own in moments if own.has(parameter)]
                zeros = torch.zeros_like(parameter, dtype=_wide(parameter)).detach()
                of_parameters[id(parameter)] = [*found, zeros][0]
            of_members[member.name] = member.view(of_parameters[id(parameter)])
    return of_members


class _Moments:
    """The second moments of an optimizer."""

    def __init__(self, rates: LearningRates) -> None:
        self.groups = rates.groups
        # The optimizer of a pair collects both at each access.
        self.state: Mapping[Tensor, Any] = rates.optimizer.state
        self.param_groups = rates.optimizer.param_groups

    def has(self, parameter: nn.Parameter) -> bool:
        """Whether there is a second moment of a parameter."""
        return _STATE in self.state.get(parameter, {})

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Return the bias-corrected second moment of a parameter, detached."""
        state = self.state[parameter]
        beta = float(self.param_groups[self.groups[id(parameter)]]["betas"][1])
        step = state["step"]
        if not isinstance(step, Tensor) or step.is_cpu:
            step = torch.tensor(float(step), dtype=torch.float64)
        # 1 − βᵏ without cancellation; fused optimizers keep k on the device, which is not waited
        # for.
        correction = -torch.expm1(step * math.log(max(beta, 1e-300)))
        moment: Tensor = state[_STATE].detach()
        # A fused optimizer that skipped its first step has k = 0, and a moment of zero.
        return moment.to(_wide(moment)) / correction.clamp_min(1e-30)


def _check_has_moments(optimizer: Optimizer) -> None:
    # AdamW is no subclass of Adam in older versions of torch.
    if not isinstance(optimizer, (Adam, AdamW)):
        raise TypeError(
            f"{type(optimizer).__name__} has no second moments that are a precision: train with "
            "torch.optim.Adam or AdamW, or give what lit_share.fisher(module, batches) returns"
        )


def _members(ties: Sequence[Tie]) -> Iterator[Member]:
    for tie in ties:
        yield from tie.members


def _named(names: Iterable[str]) -> str:
    return shortened([repr(name) for name in names], ", ")


def _wide(tensor: Tensor) -> torch.dtype:
    """Return the dtype of the precision: half precision would round small numbers to zero."""
    return torch.promote_types(tensor.dtype, torch.float32)
