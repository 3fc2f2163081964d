"""The weights in a checkpoint, and which of them are tied."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_share.compact_files import is_compact, saved_ties
from lit_share.ties import unwrapped_name

_Tie = Mapping[str, Any]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[_Tie]]:
    """Read the state dict of a checkpoint, without running anything that may be in it.

    Args:
        path: A Lightning checkpoint, or a state dict.

    Returns:
        The tensors by name, and the ties: what the `Share` callback recorded, and tensors that are one in memory.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is not a checkpoint that can be read without pickle.
    """
    with path.open("rb"):
        pass  # the usual errors for a file that is not there, or not a file
    if is_compact(path):
        raise ValueError(
            f"{str(path)!r} is a compact file already: look at it with lit-share inspect"
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read without pickle, which could run any code that is in it: if you trust it, "
            f"load it with torch.load({str(path)!r}, weights_only=False) in Python, torch.save its state dict alone as "
            f"'weights.pt', and give that ({str(error).strip().splitlines()[0][:200]})"
        ) from None
    except Exception as error:  # what is no pickle at all fails in many ways
        raise ValueError(
            f"{str(path)!r} is not a file that torch.load can read: {error!r}"
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f"{str(path)!r} holds a {type(checkpoint).__name__}, not a checkpoint or a state dict"
        )
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        state, checkpoint = checkpoint, {}
    tensors = {unwrapped_name(str(name)): tensor for name, tensor in state.items()}
    ties = saved_ties(_recorded(checkpoint), tensors)
    for tie in _in_memory(tensors):
        if not any(set(tie["names"]) <= set(known["names"]) for known in ties):
            ties.append(tie)
    return tensors, ties


def _recorded(checkpoint: Mapping[str, Any]) -> list[_Tie]:
    """What `Share` callbacks left in their state."""
    states = (checkpoint.get("callbacks") or {}).values()
    ties = [
        tie for state in states if isinstance(state, Mapping) for tie in state.get("shared") or ()
    ]
    if not all(isinstance(tie, Mapping) for tie in ties):
        raise ValueError(
            "the ties do not fit the tensors: the state of a Share callback is not what it writes"
        )
    return ties


def _in_memory(tensors: Mapping[str, Any]) -> list[_Tie]:
    """Tensors on the same region of memory, and transposed views of it."""
    places: defaultdict[tuple, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.numel() > 1:
            turned = tensor.ndim == 2 and (_region(tensor.T) in places)
            places[_region(tensor.T if turned else tensor)].append(f"{name}.T" if turned else name)
    return [{"names": names} for names in places.values() if len(names) > 1]


def _region(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
