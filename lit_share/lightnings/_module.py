"""A LightningModule, or a datamodule, of several others, of the package that these are from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from lit_share.lightnings._packages import imported_package, package_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule
else:
    LightningDataModule = LightningModule = object


class _Several:
    """A class whose instances are of the package of their keyword arguments.

    ``SeveralModules(a=LitA())`` returns an instance of a subclass, whose other base is the
    `LightningModule` of that package.
    """

    lightning_class: ClassVar[str]

    def __new__(cls, *_: Any, **modules: Any) -> Self:
        """Return a new instance of the subclass for the package of ``modules``."""
        package = common_package(modules, cls.lightning_class)
        given: Any = cls
        # It is an instance of `cls`, too, so that Python calls `__init__` with the arguments.
        made: Self = object.__new__(_with_lightning(given, package))
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Return how to copy and pickle an instance, whose class no module has."""
        given = vars(type(self)).get("_given", type(self))
        # From protocol 2 on, the third value is the state, which `__getstate__` may decide.
        state = super().__reduce_ex__(2)[2]
        return _new, (given, package_of(self)), state

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Return a new instance with the values of a checkpoint, as Lightning's class does."""
        package = common_package(kwargs, cls.lightning_class)
        given: Any = cls
        # Beyond this method, to that of Lightning's class.
        lightning: Any = super(_Several, _with_lightning(given, package))
        loaded: Self = lightning.load_from_checkpoint(checkpoint_path, *args, **kwargs)
        return loaded


class SeveralModules(_Several, LightningModule):
    """A LightningModule of the package of its keyword arguments."""

    lightning_class = "LightningModule"


class SeveralDataModules(_Several, LightningDataModule):
    """A LightningDataModule of the package of its keyword arguments."""

    lightning_class = "LightningDataModule"


def common_package(
    modules: Mapping[str, Any], lightning_class: str = "LightningModule"
) -> str | None:
    """Return the package of all modules that are from one; ``None`` if none is.

    Raises:
        TypeError: If some are from one package, some from the other.
    """
    by_package: dict[str, str] = {}
    for name, module in modules.items():
        # Other arguments, such as `same_init`, are of no package.
        package = package_of(module)
        if package is not None:
            by_package.setdefault(package, name)
    if len(by_package) > 1:
        of = " and ".join(f"{name!r} is of {package}" for package, name in by_package.items())
        instead = ""
        if lightning_class == "LightningDataModule":
            instead = "; loaders of both are taken, as a dict by child, {'a': loader, 'b': loader}"
        raise TypeError(
            f"{of}, which no Trainer takes together: import {lightning_class} from one of them "
            f"in all files{instead}"
        )
    return next(iter(by_package), None)


# Cached, so that pairs, their copies and what is loaded are of one class.
@cache
def _with_lightning(cls: Any, package: str | None) -> Any:
    package = package or imported_package()
    base = getattr(import_module(package), cls.lightning_class)
    # The user's subclass may have that base already.
    if issubclass(cls, base):
        return cls
    # Where another package's Trainer gets a module, it reads in `__module__` what it was given.
    content = {"__module__": package, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, base), {**content, "_given": cls})


def _new(cls: type, package: str | None) -> Any:
    return object.__new__(_with_lightning(cls, package))
