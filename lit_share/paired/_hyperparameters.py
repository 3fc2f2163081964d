"""Objects in checkpoints, such as hyperparameters, and how they are read safely."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import numpy as np
import torch

from lit_share.paired._checkpoint import CHILDREN

# A checkpoint does not name the classes of dtypes: reading calls numpy.dtype, which returns them.
_DTYPES = list({type(np.dtype(code)) for code in np.typecodes["All"]})


@contextmanager
def readable_hyperparameters(*modules: object) -> Iterator[None]:
    """Let `torch.load` read what these modules add to checkpoints, with ``weights_only=True``.

    Hyperparameters, and what ``on_save_checkpoint`` adds, may be any objects, such as a partial
    optimizer of Hydra. Reading a checkpoint still calls nothing but the classes and functions that
    the modules' own objects are pickled with, whatever else it names.

    Args:
        *modules: The LightningModules and LightningDataModules that wrote, or will write, the
            checkpoint. Others are ignored.

    Raises:
        ValueError: If a hyperparameter or an entry cannot be read back, naming it.

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
            allowed += _checked_globals(
                hparams,
                f"{type(module).__name__} saves the hyperparameter {{name!r}}",
                "leave it out, by self.save_hyperparameters(ignore=[{name!r}])",
            )
        allowed += _checked_globals(
            _added_entries(module),
            f"on_save_checkpoint of {type(module).__name__} adds {{name!r}}",
            "add numbers, texts and tensors instead, such as its state_dict()",
        )
    with torch.serialization.safe_globals(allowed):
        yield


def globals_of_checkpoint(file: Any) -> list[Any]:
    """Return the classes and functions that a file of `torch.save` names, and torch does not allow.

    A ``pickle.PicklingError`` says that the file could call anything by what it names, as objects
    of nested classes do.

    Args:
        file: A path or a file object. It must be from a trusted source, since modules that it names
            are imported.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    found: list[Any] = [(_located(name), name) for name in names]
    for located, name in found:
        # A file could get anything by `getattr`, which objects of nested classes are pickled with.
        if name.startswith("builtins.") and not isinstance(located, type):
            raise pickle.PicklingError(f"{name} would let a checkpoint call anything")
    if any(name.startswith("numpy.") for name in names):
        found += _DTYPES
    return found


def _added_entries(module: Any) -> dict[str, Any]:
    """Return what ``on_save_checkpoint`` of a module, or of children of a pair, adds."""
    hook = getattr(module, "on_save_checkpoint", None)
    if hook is None or not isinstance(module, torch.nn.Module):
        return {}
    checkpoint: dict[str, Any] = {"epoch": 0, "global_step": 0, "state_dict": module.state_dict()}
    given = {*checkpoint}
    # A hook may need a Trainer, or what only training makes. Then nothing is known of it yet.
    with suppress(Exception):
        hook(checkpoint)
    added = {name: value for name, value in checkpoint.items() if name not in given}
    children = added.pop(CHILDREN, {})
    for own in children.values():
        # Hyperparameters of children are among those of the pair.
        added |= {name: value for name, value in own.items() if "hyper_parameters" not in name}
    return added


def _checked_globals(values: Mapping[str, Any], subject: str, advice: str) -> list[Any]:
    """Return the globals that values need; raise `ValueError` for the first that fails.

    The message has ``subject`` and ``advice``, formatted with the value's name.
    """
    # Lightning saves a container of OmegaConf as a whole.
    if not isinstance(values, dict):
        values = {"config": values}
    allowed: list[Any] = []
    # One by one, as the error of all together would not say which of them it is.
    for name, value in values.items():
        try:
            own = _globals_of(value)
            _read_back(value, own)
        except (pickle.PickleError, RuntimeError, AttributeError, ImportError, TypeError) as error:
            raise ValueError(
                f"{subject.format(name=name)} of type {type(value).__name__}, which cannot be read "
                f"back from a checkpoint: {advice.format(name=name)}"
            ) from error
        allowed += own
    return allowed


def _globals_of(value: Any) -> list[Any]:
    """Return the classes and functions that a value is pickled with, and torch does not allow."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return globals_of_checkpoint(buffer)


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
