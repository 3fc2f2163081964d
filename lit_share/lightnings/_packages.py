"""Which of the two packages an object is from, and its modules."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

# The first one is used where nothing tells which is meant.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_FABRIC = {"lightning.pytorch": "lightning.fabric", "pytorch_lightning": "lightning_fabric"}
# Some bases, such as those of loggers, are Fabric's, which only `lightning` contains.
_ROOTS = {name.partition(".")[0] for name in (*_FABRIC, *_FABRIC.values())}


def package_of(instance: object) -> str | None:
    """Return the name of the package whose class an object has; ``None`` if it has none of both.

    Example:
        >>> from lightning.pytorch import LightningModule
        >>> package_of(LightningModule())
        'lightning.pytorch'
    """
    # A user's class is of the user's package, so its bases tell.
    for base in type(instance).__mro__:
        for package in PACKAGES:
            if f"{base.__module__}.".startswith(f"{package}."):
                return package
    return None


def is_a(instance: object, *names: str) -> bool:
    """Whether an object has a class with one of these names, of either package.

    Example:
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> is_a(ModelCheckpoint(), "Checkpoint", "EarlyStopping")
        True
    """
    # Names are compared, as classes to compare with would have to be imported.
    return any(
        base.__name__ in names and base.__module__.partition(".")[0] in _ROOTS
        for base in type(instance).__mro__
    )


def is_module(instance: object) -> TypeGuard[LightningModule]:
    """Whether an object is a LightningModule of either package."""
    return is_a(instance, "LightningModule")


def module_of(instance: object, name: str = "") -> ModuleType:
    """Return the package that an object is from, or a module in it, such as ``"core.saving"``."""
    return import_module(f"{package_of(instance) or imported_package()}.{name}".rstrip("."))


def imported_module(name: str) -> ModuleType:
    """Return a module of a package that is imported, for what is the same in both."""
    return import_module(f"{imported_package()}.{name}")


def fabric_module(name: str) -> ModuleType:
    """Return a module of the Fabric that belongs to a package that is imported."""
    return import_module(f"{_FABRIC[imported_package()]}.{name}")


def imported_package() -> str:
    """Return the name of a package that is imported, or the first of `PACKAGES`."""
    return next((name for name in PACKAGES if name in sys.modules), PACKAGES[0])
