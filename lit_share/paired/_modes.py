"""Delegation of the hooks that switch modules to evaluation and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_share.paired._hooks import Delegating


def switch_to_eval(pair: Delegating, hook: str) -> None:
    """Call the children's hooks before an evaluation; Lightning's puts a child in eval mode."""
    # The modules that the children do not reach: the pair itself, and what a strategy wraps it in.
    for module in (pair.trainer.model, pair):
        if module is not None:
            module.training = False
    for name, child in pair.by_name().items():
        with pair.as_if_alone(name):
            getattr(child, hook)()


def switch_back(pair: Delegating, hook: str) -> None:
    """Call the hooks of children that have them after an evaluation; restore the others' modes."""
    loop = pair.trainer._active_loop
    assert loop is not None
    own = pair.overriding(hook)
    # Lightning restores modes only if no module overrides the hook.
    for name, module in pair.named_modules():
        if name.partition(".")[0] not in own:
            module.training = loop._module_mode.mode.get(name, module.training)
    for name in own:
        with pair.as_if_alone(name):
            getattr(pair.by_name()[name], hook)()
