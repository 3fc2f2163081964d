"""Recognise what torch has distributed, without importing it: the import takes 40 MB and a second.

A tensor or a module can be of these classes only where their module is imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from typing_extensions import TypeIs

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_dtensor(value: object) -> TypeIs[DTensor]:
    """Whether a value is a `torch.distributed.tensor.DTensor`."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(value, loaded.DTensor)


def is_fsdp_module(value: object) -> TypeIs[FSDPModule]:
    """Whether a module was given to `torch.distributed.fsdp.fully_shard`."""
    loaded = sys.modules.get("torch.distributed.fsdp")
    return loaded is not None and isinstance(value, loaded.FSDPModule)
