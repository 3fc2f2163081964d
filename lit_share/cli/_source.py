"""The modules whose ties can be planned: one that is built by the user's code, or the names in a file."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lit_share.cli._checkpoint import read_checkpoint
from lit_share.compact_files import is_compact, read

_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
_IMPORTABLE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def module_of(source: str) -> nn.Module:
    """The module that is named on the command line.

    Args:
        source: A Lightning checkpoint, a state dict, a compact or another safetensors file; or ``package.module:name``
            of a module, or of a class or function that returns one when it is called without arguments.

    Returns:
        The module; of a file, one without values that has the names and shapes in it.

    Raises:
        OSError: If a file cannot be opened.
        ValueError: If it is not such a file, or the module cannot be built.
    """
    path = Path(source)
    if not path.exists() and _IMPORTABLE.fullmatch(source):
        return _built(source)
    with path.open("rb"):
        pass  # the usual errors for a file that is not there, or a folder
    if is_compact(path):
        manifest = read(path).manifest
        tensors = {
            name: _empty(stored.shape, stored.dtype) for name, stored in manifest.tensors.items()
        }
        return _skeleton(tensors, [tie.model_dump() for tie in manifest.ties])
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {
                name: _empty(part.get_shape(), part.get_dtype()) for name, part in slices.items()
            }
    except SafetensorError:
        return _skeleton(*read_checkpoint(path))
    return _skeleton(tensors, ())


def _built(source: str) -> nn.Module:
    name, _, attribute = source.partition(":")
    sys.path.insert(0, "")  # what `python -m` does, too
    try:
        with redirect_stdout(sys.stderr):  # what it prints is not the plan
            target: Any = import_module(name)
            for part in attribute.split("."):
                target = getattr(target, part)
            module = target if isinstance(target, nn.Module) else target()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ValueError(
            f"{source!r} cannot be built ({type(error).__name__}: {error}): name a module, or a class or function that "
            "returns one when it is called without arguments"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise ValueError(f"{source!r} gave a {type(module).__name__}, not a torch.nn.Module")
    return module


def _empty(shape: Iterable[int], code: str) -> Tensor:
    """A tensor without values, of a dtype of safetensors: all that matters is whether it can be trained."""
    is_trainable = code.startswith(("F", "BF", "C"))
    return torch.empty(
        tuple(shape), dtype=torch.float32 if is_trainable else torch.int64, device="meta"
    )


def _skeleton(tensors: Mapping[str, Any], ties: Iterable[Mapping[str, Any]]) -> nn.Module:
    """A module with these names and shapes, in which parameters that are one in a file are one.

    A file does not say which tensors are buffers: statistics of normalisation and whole numbers are taken for such.
    """
    root = nn.Module()
    parameters: dict[str, nn.Parameter] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue  # the extra state of a module
        *parts, attribute = name.split(".")
        owner = root
        for part in parts:
            # Not by the module's own methods, which refuse names such as `type`.
            owner = owner._modules.setdefault(part, nn.Module())  # type: ignore[assignment]
        if attribute in _STATISTICS or not (tensor.is_floating_point() or tensor.is_complex()):
            owner._buffers[attribute] = tensor.to("meta")
            continue
        parameters[name] = nn.Parameter(tensor.to("meta"))
        owner._parameters[attribute] = parameters[name]
    for tie in ties:
        first, *others = tie["names"]
        for other in others:
            if first in parameters and other in parameters:  # not a transposed one
                *parts, attribute = other.split(".")
                root.get_submodule(".".join(parts))._parameters[attribute] = parameters[first]
    if not parameters:
        raise ValueError("there is no parameter in it")
    return root
