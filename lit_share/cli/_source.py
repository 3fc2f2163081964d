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
from torch import Tensor, nn

from lit_share.cli._checkpoint import read_checkpoint
from lit_share.compact_files import entry_specs, is_compact, read

_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
_IMPORTABLE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def module_of(source: str) -> nn.Module:
    """Return the module that the command line names.

    Args:
        source: A Lightning checkpoint, a state dict, a compact or another safetensors file; or
            ``package.module:name`` of a module, or of a class or function that returns one when it
            is called without arguments.

    Returns:
        The module. For a file, it has the file's names and shapes; values only where loading the
        file has read them, as for a checkpoint.

    Raises:
        OSError: If a file cannot be opened.
        ValueError: If the file has another format, or the module cannot be built.
    """
    # A file takes precedence, because its name may have a colon, too.
    path = Path(source)
    if not path.exists() and is_importable(source):
        return build_module(source)
    if not path.exists():
        _refuse_path_of_code(source)
    if is_compact(path):
        manifest = read(path).manifest
        stored = manifest.tensors.items()
        tensors = {name: _empty(tensor.shape, tensor.dtype) for name, tensor in stored}
        return _skeleton(tensors, [tie.model_dump() for tie in manifest.ties])
    specs = entry_specs(path)
    if specs is None:
        return _skeleton(*read_checkpoint(path))
    return _skeleton({name: _empty(shape, dtype) for name, (dtype, shape) in specs.items()}, ())


def is_importable(source: str) -> bool:
    """Whether a text has the form ``package.module:name``."""
    return _IMPORTABLE.fullmatch(source) is not None


def build_module(source: str) -> nn.Module:
    """Return the module that ``package.module:name`` is, or returns without arguments.

    Raises:
        ValueError: If it cannot be imported or called, or is no module.
    """
    if not is_importable(source):
        raise ValueError(f"{source!r} names no module: write it as package.module:name")
    module: nn.Module = imported(source, (nn.Module,), "a module")
    return module


def imported(source: str, kinds: tuple[type, ...], what: str) -> Any:
    """Return what ``package.module:name`` is if it is of these kinds, or returns when called.

    Args:
        source: The package, module and name.
        kinds: The types of what is looked for.
        what: What it is, for messages.

    Raises:
        ValueError: If it cannot be imported or called, or is of another type.
    """
    name, _, attribute = source.partition(":")
    # Like `python -m`, the command finds modules in the current folder.
    sys.path.insert(0, "")
    try:
        # Standard output is for the plan, which may be JSON.
        with redirect_stdout(sys.stderr):
            found: Any = import_module(name)
            for component in attribute.split("."):
                found = getattr(found, component)
            if not isinstance(found, kinds):
                found = found()
    except ModuleNotFoundError as error:
        # The user's module may itself import another that does not exist.
        if error.name not in _packages_of(name):
            raise ValueError(f"{source!r} cannot be built ({error}): install it") from error
        raise ValueError(
            f"{source!r} cannot be built ({error}, neither installed nor in {Path.cwd()}): write "
            "package.module:name as in an import, and run the command in the folder of the "
            "package, or with PYTHONPATH=FOLDER before it"
        ) from error
    # The user's code may raise anything.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{source!r} cannot be built ({type(error).__name__}: {error}): name {what}, or a "
            "class or function that returns one when it is called without arguments"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(found, kinds):
        raise ValueError(f"{source!r} gave a {type(found).__name__}, not {what}")
    return found


def _packages_of(name: str) -> list[str]:
    """Return a module's name and those of the packages that it is in."""
    components = name.split(".")
    return [".".join(components[:i]) for i in range(1, len(components) + 1)]


def _refuse_path_of_code(source: str) -> None:
    """Raise `ValueError` if a text is a path of Python code, followed by a name in it."""
    file, colon, name = source.partition(":")
    if not colon or "/" not in file:
        return
    path = Path(file).with_suffix("")
    raise ValueError(
        f"{source!r} is a path, and code is imported: write PYTHONPATH={path.parent} before the "
        f"command, and {path.name}:{name} in place of it"
    )


def _empty(shape: Iterable[int], code: str) -> Tensor:
    # A plan does not depend on the dtype, except that integers cannot be trained.
    dtype = torch.int64
    if code.startswith(("F", "BF", "C")):
        dtype = torch.float32
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _with_values(tensor: Tensor) -> Tensor:
    """Return the tensor, without values if they would take more memory than the file."""
    # With strides of zero, a small file can describe a tensor of any size.
    if tensor.layout == torch.strided and tensor.nbytes <= tensor.untyped_storage().nbytes():
        return tensor
    return tensor.to("meta")


def _skeleton(tensors: Mapping[str, Any], ties: Iterable[Mapping[str, Any]]) -> nn.Module:
    """Return a module with the tensors' names, shapes and values; tied names are one Parameter.

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
        parameters[name] = nn.Parameter(_with_values(tensor))
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
