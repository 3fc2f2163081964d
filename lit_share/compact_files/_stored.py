"""The interface of ways to store a tensor, as the manifest records them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lit_share.compact_files._bits import DTYPES, Bits

# A larger number could not be the size of an array.
Count = Annotated[int, Field(ge=0, lt=2**63)]
# The dtype and shape of an entry of the file.
Spec = tuple[str, tuple[int, ...]]


T = TypeVar("T")
# JSON has lists for tuples. Of wrong elements only the first is reported, as there may be millions.
Sequenced = Annotated[tuple[T, ...], Field(strict=False), FailFast()]


class Part(BaseModel):
    """A part of a manifest, without conversions and unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, content: object) -> object:
        # pydantic itself would report each of a million unknown fields.
        if isinstance(content, dict):
            for name in content:
                if name not in cls.model_fields:
                    text = "{name}: Extra inputs are not permitted"
                    raise PydanticCustomError("extra_forbidden", text, {"name": repr(name)})
        return content


class Stored(Part, ABC):
    """How a tensor is stored: each way is a subclass in a separate file.

    A way refers to *earlier* tensors of the manifest only, so that files are decoded in a single
    pass and references cannot form cycles.

    Attributes:
        dtype: The name of the dtype in safetensors.
        shape: The shape.
        nonzero: The number of elements with any bit set, which −0.0 has.
    """

    dtype: str
    # NumPy has at most 64 dimensions.
    shape: Annotated[Sequenced[Count], Field(max_length=64)]
    nonzero: Count

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}")
        return dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of the plain tensor."""
        return self.numel * DTYPES[self.dtype].itemsize

    @abstractmethod
    def check(self, earlier: Mapping[str, Stored]) -> None:
        """Raise `ValueError` if this contradicts itself or the earlier tensors."""

    @abstractmethod
    def entries(self, earlier: Mapping[str, Stored]) -> dict[str, Spec]:
        """Return dtype and shape of each entry that this needs, by the suffix of its name."""

    @abstractmethod
    def decode(self, entries: Mapping[str, Bits], earlier: Mapping[str, Bits]) -> Bits:
        """Restore the tensor, or raise `ValueError` if the entries contradict each other."""

    @abstractmethod
    def __str__(self) -> str:
        """Describe in a few words how the tensor is stored, as ``lit-share inspect`` prints it."""
