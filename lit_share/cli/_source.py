"""Get the module to plan ties for, from the user's code or from the names in a file."""

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
    """Return the module that the command line names.

    Args:
        source: A Lightning checkpoint, a state dict, a compact or another safetensors file; or
            ``package.module:name`` of a module, or of a class or function that returns one when it
            is called without arguments.

    Returns:
        The module. For a file, it has the file's names and shapes, but no values.

    Raises:
        OSError: If a file cannot be opened.
        ValueError: If the file has another format, or the module cannot be built.
    """
    # A file takes precedence, because its name may have a colon, too.
    path = Path(source)
    if not path.exists() and _IMPORTABLE.fullmatch(source):
        return _built(source)
    # Opening raises Python's own errors if the file is missing or a folder.
    path.open("rb").close()
    if is_compact(path):
        manifest = read(path).manifest
        stored = manifest.tensors.items()
        tensors = {name: _empty(tensor.shape, tensor.dtype) for name, tensor in stored}
        return _skeleton(tensors, [tie.model_dump() for tie in manifest.ties])
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                entry = file.get_slice(name)
                tensors[name] = _empty(entry.get_shape(), entry.get_dtype())
    except SafetensorError:
        return _skeleton(*read_checkpoint(path))
    return _skeleton(tensors, ())


def _built(source: str) -> nn.Module:
    name, _, attribute = source.partition(":")
    # Like `python -m`, the command finds modules in the current folder.
    sys.path.insert(0, "")
    try:
        # Standard output is for the plan, which may be JSON.
        with redirect_stdout(sys.stderr):
            module: Any = import_module(name)
            for component in attribute.split("."):
                module = getattr(module, component)
            if not isinstance(module, nn.Module):
                module = module()
    # The user's code may raise anything.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{source!r} cannot be built ({type(error).__name__}: {error}): name a module, or a "
            "class or function that returns one when it is called without arguments"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise ValueError(f"{source!r} gave a {type(module).__name__}, not a torch.nn.Module")
    return module


def _empty(shape: Iterable[int], code: str) -> Tensor:
    # A plan does not depend on the dtype, except that integers cannot be trained.
    dtype = torch.int64
    if code.startswith(("F", "BF", "C")):
        dtype = torch.float32
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _skeleton(tensors: Mapping[str, Any], ties: Iterable[Mapping[str, Any]]) -> nn.Module:
    """Return a meta-device module with the tensors' names and shapes; tied names are one Parameter.

    Integers and statistics become buffers. Skip non-tensors. Raise `ValueError` without parameters.
    """
    root = nn.Module()
    parameters: dict[str, nn.Parameter] = {}
    for name, tensor in tensors.items():
        # Modules may save an extra state of any type.
        if not isinstance(tensor, Tensor):
            continue
        *path, attribute = name.split(".")
        owner = root
        for component in path:
            # `add_module` refuses names such as `type`.
            owner = owner._modules.setdefault(component, nn.Module())  # type: ignore[assignment]
        # A file does not say which tensors are buffers, so names and dtypes decide.
        if attribute in _STATISTICS or not (tensor.is_floating_point() or tensor.is_complex()):
            owner._buffers[attribute] = tensor.to("meta")
            continue
        parameters[name] = nn.Parameter(tensor.to("meta"))
        owner._parameters[attribute] = parameters[name]
    for tie in ties:
        first, *others = tie["names"]
        for other in others:
            # A transpose cannot be an alias of the skeleton's parameter.
            if first in parameters and other in parameters:
                layer, _, attribute = other.rpartition(".")
                root.get_submodule(layer)._parameters[attribute] = parameters[first]
    if not parameters:
        raise ValueError("there is no parameter in it")
    return root
