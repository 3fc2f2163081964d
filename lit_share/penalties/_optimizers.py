"""Learning rates of optimizers, and checks that penalties support them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from lit_share.ties import Tie, is_dtensor

# Names rather than classes, as several packages have optimizers of one name. These compute weights
# from sums of gradients (or normalise them), and those take steps that the learning rate is not in.
_ANEW = {"a2grad", "dadaptadagrad", "dadaptsgd", "ftrl", "madgrad", "nero", "srmm"}
_OWN_SIZES = {"alig", "asgd", "rprop"}


def skipped_its_step(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer found infinite gradients under fp16, and moved no weights."""
    # A GradScaler sets this attribute of fused optimizers, which skip the step themselves. It does
    # not call the step of other optimizers at all, so these need no such check.
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers of the children that the optimizer of a pair steps, or itself."""
    # `paired` is above this folder, so its class is known by this attribute.
    parts = getattr(optimizer, "parts", None)
    if isinstance(parts, Mapping):
        return [inner for part in parts.values() for inner in parts_of(part)]
    return [optimizer]


def parameters_of(optimizers: Iterable[Optimizer]) -> Iterator[nn.Parameter]:
    """Yield the parameters of optimizers."""
    for group in chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
        yield from group["params"]


def find_unowned(optimizers: Sequence[Optimizer], ties: Sequence[Tie]) -> list[str]:
    """Return the names of members that require a gradient but that no optimizer owns."""
    owned = set(parameters_of(optimizers))
    # FSDP2 replaces sharded parameters by full parameters and back, so that members may be other
    # objects than those that optimizers own.
    if any(is_dtensor(parameter) for parameter in owned):
        return []
    names: dict[nn.Parameter, str] = {}
    for tie in ties:
        for member in tie.members:
            names.setdefault(member.parameter, member.name)
    return [name for p, name in names.items() if p.requires_grad and p not in owned]


def register_after_step(optimizer: Optimizer, hook: Callable[..., None]) -> RemovableHandle:
    """Call a hook after every step of an optimizer.

    Raises:
        ValueError: If steps of the optimizer call no hooks.
    """
    # Wrappers may leave out `Optimizer.__init__`, which torch makes up for at a first `zero_grad`:
    # this may be within the first step.
    if not hasattr(optimizer, "_zero_grad_profile_name"):
        optimizer._patch_step_function()
    # A scheduler that was made before has bound the step without hooks.
    if not getattr(optimizer.step, "hooked", False):
        kind = type(optimizer).__name__
        raise ValueError(
            f"the steps of {kind} call no hooks, on which penalties depend: call "
            f"super().__init__(params, defaults) in {kind}.__init__"
        )
    return optimizer.register_step_post_hook(hook)


def refuse_unsupported(
    optimizers: Sequence[Optimizer], ties: Sequence[Tie], uses_prox: bool
) -> None:
    """Raise `ValueError` for optimizers and members that cannot be trained with a penalty."""
    members = [member for tie in ties for member in tie.members]
    for part in chain.from_iterable(map(parts_of, optimizers)):
        kind = type(part).__name__
        if isinstance(part, LBFGS):
            raise ValueError(
                "Regularize cannot serve LBFGS, whose line search needs the penalty in the loss: "
                "add strength * penalty.value([...]) to the loss in training_step instead"
            )
        without: set[nn.Parameter] = set()
        for group in part.param_groups:
            if group.get("lr") is None:
                without.update(group["params"])
        if any(member.parameter in without for member in members):
            raise ValueError(
                f'the parameter groups of {kind} have no learning rate "lr", which is the size of '
                "proximal steps: give it one"
            )
        for tie in ties:
            _check_signs(part, tie)
        reason = _other_steps(part)
        if uses_prox and reason is not None:
            raise ValueError(
                f"{kind} {reason}: take a penalty that is added as a gradient, such as "
                '"soft_tie", or another optimizer'
            )
    for member in members:
        if getattr(member.ref.owner, "sparse", False):
            raise ValueError(
                f"{member.name!r} belongs to an embedding with sparse gradients: make it with "
                "sparse=False, or exclude it from the ties"
            )


def _other_steps(optimizer: Optimizer) -> str | None:
    """Say why proximal steps of the size of the learning rate do not fit an optimizer's steps."""
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        return "trains other weights than those that are evaluated, which would not become equal"
    names = {kind.__name__.lower() for kind in type(optimizer).__mro__}
    if names & _ANEW:
        return "computes weights anew in each step, which undoes proximal steps"
    for key in ("lr_decay", "relative_step"):
        if any(group.get(key) for group in optimizer.param_groups):
            return f"sets the size of its steps itself ({key}), which proximal steps need to know"
    if names & _OWN_SIZES:
        return "sets the size of its steps itself, which proximal steps need to know"
    return None


def _check_signs(optimizer: Optimizer, tie: Tie) -> None:
    owned = {id(parameter) for parameter in tie.parameters}
    groups = [g for g in optimizer.param_groups if any(id(p) in owned for p in g["params"])]
    if len({bool(group.get("maximize")) for group in groups}) > 1:
        raise ValueError(
            f"maximize={groups[0].get('maximize', False)} and "
            f"maximize={groups[-1].get('maximize', False)} in groups of members of the tie "
            f"{tie.name!r}: write the same for all"
        )


def _rate_of(group: Mapping[str, Any]) -> float:
    rate = float(group.get("lr") or 0.0)
    # In torch's Adafactor, d is a threshold.
    if "d" in group and "beta2_decay" not in group:
        rate *= float(group["d"])
    return rate


class LearningRates:
    """The learning rates of an optimizer's parameters.

    Attributes:
        sizes: The number of parameters in each group, when `look_up` was called.
        groups: The index of a parameter's group, by the parameter's ``id``.
        maximized: The indices of groups whose gradients are ascended.
    """

    # Loading an optimizer's state replaces its group dicts, and groups may be added in training.
    # So callers compare `sizes` and look up again, and `rates` reads the present dicts.

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.look_up()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make callers look up again, as the parameters of a copy have other ids."""
        self.__dict__.update(state, sizes=[])

    def look_up(self) -> None:
        """Look up which group each parameter belongs to."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        self.sizes = [len(group["params"]) for group in groups]
        self.maximized = {i for i, group in enumerate(groups) if group.get("maximize")}
        # Ids, because `hash(tensor)` is slow; they stay valid as the groups keep parameters alive.
        self.groups = {id(p): i for i, group in enumerate(groups) for p in group["params"]}
        self._of_ties: dict[str, list[tuple[int, nn.Parameter, int]]] = {}

    def of_tie(self, tie: Tie) -> list[tuple[int, nn.Parameter, int]]:
        """Return (member, parameter, group) for the members of a tie that the optimizer owns."""
        own = self._of_ties.get(tie.name)
        if own is None:
            own = [
                (i, parameter, self.groups[id(parameter)])
                for i, parameter in enumerate(tie.parameters)
                if id(parameter) in self.groups
            ]
            self._of_ties[tie.name] = own
        return own

    def rates(self) -> list[float]:
        """Return the learning rate of every group; 0 for groups without members that have none.

        With optimizers that estimate a distance d, such as Prodigy, it is d times the group's rate.
        """
        return [_rate_of(group) for group in self.optimizer.param_groups]

    def signed(self, ties: Sequence[Tie], strengths: float | Sequence[float]) -> list[float]:
        """Return strengths, negative for ties in groups whose optimizer maximizes.

        So a penalty is minimised whatever becomes of the loss, as it is by ``weight_decay``.
        """
        if isinstance(strengths, float):
            strengths = [strengths] * len(ties)
        signed = []
        for tie, strength in zip(ties, strengths, strict=True):
            if any(group in self.maximized for _, _, group in self.of_tie(tie)):
                strength = -strength
            signed.append(strength)
        return signed
