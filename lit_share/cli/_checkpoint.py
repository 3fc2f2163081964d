"""Read the weights and the ties of a checkpoint."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_share.compact_files import is_compact, saved_ties
from lit_share.ties import by_unwrapped_name

_Tie = Mapping[str, Any]


def load_checkpoint(path: Path) -> Mapping[str, Any]:
    """Load a Lightning checkpoint, or a state dict, without running any code in it.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not a checkpoint that can be read without pickle.
    """
    name = repr(str(path))
    if is_compact(path):
        raise ValueError(f"{name} is a compact file already: look at it with lit-share inspect")
    try:
        checkpoint = load_plain(path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name} cannot be read without pickle, which could run any code that is in it, "
            f"because of {_unknown_object(error)}: if you trust it, load it in Python with "
            f"torch.load({name}, weights_only=False), torch.save its state dict alone as "
            "'weights.pt', and give that"
        ) from None
    # Files of other formats raise many kinds of errors.
    except Exception as error:
        raise ValueError(f"{name} is not a file that torch.load can read: {error!r}") from None
    if not isinstance(checkpoint, Mapping):
        kind = type(checkpoint).__name__
        raise ValueError(f"{name} holds a {kind}, not a checkpoint or a state dict")
    for key in state_dict_of(checkpoint):
        # As texts, a number and its digits would be one name, and one of two tensors would be lost.
        if not isinstance(key, str):
            raise ValueError(f"{name} has an entry {key!r}, whose name is not a text")
    return checkpoint


def load_plain(path: Path) -> Any:
    """Load what `torch.save` wrote, without running any code in it and without warnings.

    Raises:
        Exception: Of any kind, if the file has another format or needs pickle.
    """
    # torch warns of protocols of pickle, and what is wrong is to be one line.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _unknown_object(error: pickle.UnpicklingError) -> str:
    """Return what torch does not read, from its message of many lines and colors."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found is None:
        return "an object that is neither a tensor, a number nor a text"
    return found[1]


def state_dict_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict in a checkpoint, or the checkpoint if it is a state dict itself."""
    state = checkpoint.get("state_dict")
    if isinstance(state, Mapping):
        return state
    return checkpoint


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[_Tie]]:
    """Read the state dict of a checkpoint without running any code in it.

    Args:
        path: A Lightning checkpoint, or a state dict.

    Returns:
        The tensors by name, and the ties: those that a `Share` callback recorded, and tensors that
        share memory.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not a checkpoint that can be read without pickle.
    """
    checkpoint = load_checkpoint(path)
    state = state_dict_of(checkpoint)
    # A bare state dict has no callbacks, hence no recorded ties.
    if state is checkpoint:
        checkpoint = {}
    tensors = by_unwrapped_name(state)
    ties = saved_ties(_recorded(checkpoint), tensors)
    for tie in _in_memory(tensors):
        if not any(set(tie["names"]) <= set(known["names"]) for known in ties):
            ties.append(tie)
    return tensors, ties


def _recorded(checkpoint: Mapping[str, Any]) -> list[_Tie]:
    ties: list[Any] = []
    # Any callback may be in a checkpoint, with a state of any type.
    for state in (checkpoint.get("callbacks") or {}).values():
        if isinstance(state, Mapping):
            ties += state.get("shared") or ()
    if not all(isinstance(tie, Mapping) for tie in ties):
        raise ValueError(
            "the ties do not fit the tensors: the state of a Share callback is not what it writes"
        )
    return ties


def _in_memory(tensors: Mapping[str, Any]) -> list[_Tie]:
    """Return ``{"names": […]}`` for tensors that are the same memory; transposes end in ``.T``."""
    regions: defaultdict[tuple, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        # Tying tensors of fewer than two numbers would save nothing.
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.numel() > 1:
            if tensor.ndim == 2 and _region(tensor.T) in regions:
                regions[_region(tensor.T)].append(f"{name}.T")
            else:
                regions[_region(tensor)].append(name)
    return [{"names": names} for names in regions.values() if len(names) > 1]


def _region(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
