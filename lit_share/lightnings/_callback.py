"""A callback for Trainers of both packages."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from lit_share.lightnings._packages import PACKAGES

if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Base
else:

    class _Base:
        """What the class has beside Lightning's, as bases of `object` alone cannot be changed."""


class Callback(_Base):
    """A callback of each Lightning that is imported, and of the first of `PACKAGES` if none is.

    A Trainer takes a callback that is not in a list, and LightningCLI takes any, only if it is an
    instance of the `Callback` of its own package. So that becomes a base of this class, as soon as
    a callback is created after the package was imported.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Return a new instance, of the packages that are imported by now."""
        if not join_imported():
            import_module(PACKAGES[0])
            join_imported()
        return super().__new__(cls)


def join_imported() -> bool:
    """Make `Callback` one of all imported packages; return whether there are any."""
    packages = [sys.modules[name] for name in PACKAGES if name in sys.modules]
    for package in packages:
        # Bases are only added, since there may be instances that the other package needs.
        if not issubclass(Callback, package.Callback):
            Callback.__bases__ = (*Callback.__bases__, package.Callback)
    return bool(packages)


# LightningCLI looks at the class before there is an instance.
join_imported()
