"""What the manifest says about one tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lit_share.compact_files._bits import DTYPES, Bits

Count = Annotated[int, Field(ge=0, lt=2**63)]
Spec = tuple[str, tuple[int, ...]]  # dtype and shape of an entry of the file


class Strict(BaseModel):
    """Part of a manifest: of exactly the types that it declares, and no more than that."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Stored(Strict, ABC):
    """How one tensor is stored: there is a subclass, in a file of its own, for each way.

    A way refers to *earlier* tensors of the manifest only, so that files are decoded in one pass and cannot go round
    in circles.

    Attributes:
        dtype: As safetensors writes it.
        shape: The shape.
        nonzero: How many elements have a bit that is set.
    """

    dtype: str
    shape: Annotated[tuple[Count, ...], Field(max_length=64)]
    nonzero: Count

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}")
        return dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the plain tensor."""
        return self.numel * DTYPES[self.dtype].itemsize

    @abstractmethod
    def check(self, earlier: Mapping[str, Stored]) -> None:
        """Raise `ValueError` if this cannot be, given the tensors before it."""

    @abstractmethod
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        """What the file must hold for it, by what is appended to its name."""

    @abstractmethod
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        """The tensor, of its entries and the tensors before it; `ValueError` where they contradict each other."""

    @abstractmethod
    def __str__(self) -> str:
        """The way it is stored, in a few words."""
