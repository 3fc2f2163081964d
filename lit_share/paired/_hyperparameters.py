"""Hyperparameters that checkpoints store as pickled objects, and how these are read safely."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch

# A checkpoint does not name the classes of dtypes: reading calls numpy.dtype, which returns them.
_DTYPES = list({type(np.dtype(code)) for code in np.typecodes["All"]})


@contextmanager
def readable_hyperparameters(*modules: object) -> Iterator[None]:
    """Let `torch.load` read the hyperparameters of these modules, with ``weights_only=True``.

    Hyperparameters may be any objects, such as a partial optimizer of Hydra. Reading a checkpoint
    still calls nothing but the classes and functions that the modules' own hyperparameters are
    pickled with, whatever else it names.

    Args:
        *modules: The LightningModules and LightningDataModules that wrote, or will write, the
            checkpoint. Others are ignored.

    Raises:
        ValueError: If a hyperparameter cannot be read back, naming it.

    Example:
        >>> import fractions, types
        >>> module = types.SimpleNamespace(hparams={"ratio": fractions.Fraction(1, 3)})
        >>> file = io.BytesIO()
        >>> torch.save(module.hparams, file)
        >>> with readable_hyperparameters(module):
        ...     torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        {'ratio': Fraction(1, 3)}
    """
    allowed: list[Any] = []
    for module in modules:
        hparams = getattr(module, "hparams", None)
        if isinstance(hparams, Mapping):
            allowed += _checked_globals(type(module).__name__, hparams)
    with torch.serialization.safe_globals(allowed):
        yield


def _checked_globals(owner: str, hparams: Mapping[str, Any]) -> list[Any]:
    """Return the globals that hyperparameters need; raise `ValueError` for the first that fails."""
    # Lightning saves a container of OmegaConf as a whole.
    values = {"config": hparams}
    if isinstance(hparams, dict):
        values = hparams
    allowed: list[Any] = []
    # One by one, as the error of all together would not say which of them it is.
    for name, value in values.items():
        try:
            own = _globals_of(value)
            _read_back(value, own)
        except (pickle.PickleError, RuntimeError, AttributeError, ImportError, TypeError) as error:
            raise ValueError(
                f"{owner} saves the hyperparameter {name!r} of type {type(value).__name__}, which "
                "cannot be read back from a checkpoint: leave it out, by "
                f"self.save_hyperparameters(ignore=[{name!r}])"
            ) from error
        allowed += own
    return allowed


def _globals_of(value: Any) -> list[Any]:
    """Return the classes and functions that a value is pickled with, and torch does not allow."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    found: list[Any] = [(_located(name), name) for name in names]
    for located, name in found:
        # A file could get anything by `getattr`, which objects of nested classes are pickled with.
        if name.startswith("builtins.") and not isinstance(located, type):
            raise pickle.PicklingError(f"{name} would let a checkpoint call anything")
    if any(name.startswith("numpy.") for name in names):
        found += _DTYPES
    return found


def _read_back(value: Any, allowed: Iterable[Any]) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    with torch.serialization.safe_globals(list(allowed)):
        torch.load(buffer, map_location="cpu", weights_only=True)


def _located(name: str) -> Any:
    """Return what a dotted name stands for; classes may be inside of others."""
    components = name.split(".")
    for i in range(len(components) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(components[:i]))
        except ImportError:
            continue
        for component in components[i:]:
            found = getattr(found, component)
        return found
    raise ImportError(f"{name} cannot be imported")
