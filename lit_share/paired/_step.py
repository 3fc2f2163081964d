"""Delegation of `optimizer_step`, although the optimizers of all children step at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lit_share.paired._view import View

if TYPE_CHECKING:
    from lit_share.paired._hooks import Delegating

Closure = Callable[[], Any]

# The three lines of a subclass whose child steps as all others do.
_REMEDY = """write
    class InPair({cls}):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer.step(closure=optimizer_closure)
and add what else it does before or after that line"""


def step_nested(
    pair: Delegating, hook: str, epoch: int, batch_idx: int, optimizer: Any, closure: Closure
) -> None:
    """Call `optimizer_step` of the children that have it, each within the step of the one before.

    In `a.optimizer_step`, ``optimizer.step`` calls `b.optimizer_step`, and there it steps the
    optimizers of all children. So what a child does before its step happens before the forward and
    backward pass, and what it does after its step happens after that, as if it were alone.

    Args:
        pair: The pair.
        hook: The hook's name.
        epoch: The current epoch.
        batch_idx: The index of the batch.
        optimizer: The pair's optimizer, as Lightning wraps it.
        closure: Runs the forward and backward pass of all children.

    Raises:
        ValueError: If a child does not call ``optimizer.step`` once.
    """
    results: list[Any] = []
    closures: list[Closure] = []

    # A child may call its closure by itself, before its step: the pass runs once for all children.
    def run_once() -> Any:
        if not results:
            results.append(closure())
        return results[0]

    def run_all() -> Any:
        for own in closures:
            own()
        return run_once()

    def step(remaining: list[str]) -> Any:
        if not remaining:
            return optimizer.step(closure=run_all)
        name, *others = remaining
        child, part = pair.by_name()[name], optimizer.parts[name]
        n_steps = 0

        def own_step(closure: Closure | None = None) -> Any:
            nonlocal n_steps
            n_steps += 1
            if n_steps > 1:
                raise _not_once(name, child, "more than once")
            if closure is not None:
                closures.append(closure)
            return step(others)

        own = {"step": lambda: own_step, "optimizer": lambda: part}
        with pair.as_if_alone(name):
            getattr(child, hook)(epoch, batch_idx, View(part, own, name), run_once)
        if n_steps == 0:
            raise _not_once(name, child, "not at all")
        return results[0]

    step(pair.overriding(hook))


def _not_once(name: str, child: object, how_often: str) -> ValueError:
    remedy = _REMEDY.format(cls=type(child).__name__)
    return ValueError(
        f"optimizer_step of child {name!r} calls optimizer.step {how_often}, but all children step "
        f"together, once for each batch: {remedy}"
    )
