"""An object as seen by one child, to which a few of its attributes are its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class View:
    """Pass attributes on to `whole`, except those for which `own` has a function.

    A view is an instance of the class of `whole`, so that `isinstance(self.trainer, Trainer)` holds
    in a child, too.

    Args:
        whole: The object that all children have in common.
        own: For names of attributes, functions that return one child's value.
        child_name: The child's name, for errors.

    Raises:
        AttributeError: If one of `own` is set, which would change the other children's value.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer = SimpleNamespace(max_epochs=3, model="pair")
        >>> view = View(trainer, {"model": lambda: "child a"}, "a")
        >>> view.max_epochs, view.model, isinstance(view, SimpleNamespace)
        (3, 'child a', True)
    """

    def __init__(self, whole: Any, own: Mapping[str, Callable[[], Any]], child_name: str) -> None:
        vars(self).update(_whole=whole, _own=own, _child_name=child_name)

    def __getattr__(self, name: str) -> Any:
        # `copy` and `pickle` look for attributes before the view has any.
        own = object.__getattribute__(self, "_own")
        if name in own:
            return own[name]()
        return getattr(self._whole, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own:
            raise AttributeError(
                f"child {self._child_name!r} sets {name} of a {type(self._whole).__name__}, which "
                "other children of the pair have a value of, too: leave it out"
            )
        setattr(self._whole, name, value)

    def __repr__(self) -> str:
        return repr(self._whole)

    # A property, as `isinstance` reads `__class__` of the instance.
    __class__ = property(lambda self: type(self._whole))
