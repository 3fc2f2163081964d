"""Store a tensor as it is, under its own name, so that every reader of safetensors can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from typing_extensions import override

from lit_share.compact_files._bits import Bits
from lit_share.compact_files._stored import Spec, Stored


class Own(Stored):
    """Stored as it is."""

    kind: Literal["own"] = "own"

    @override
    def check(self, earlier: Mapping[str, Stored]) -> None:
        pass

    @override
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        return {"": (self.dtype, self.shape)}

    @override
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        return entries[""]

    def __str__(self) -> str:
        return "own"
