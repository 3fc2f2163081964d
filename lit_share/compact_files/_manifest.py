"""The manifest of a compact file: all that is needed to make the tensors and their ties of its entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator
from typing_extensions import Self

from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._layout import in_order
from lit_share.compact_files._own import Own
from lit_share.compact_files._rows import Rows
from lit_share.compact_files._same import Same
from lit_share.compact_files._sparse import Sparse
from lit_share.compact_files._stored import Count, Stored, Strict
from lit_share.text import visible

VERSION: Final = 1

AnyStored = Annotated[Own | Same | Sparse | Rows, Field(discriminator="kind")]


class RecordedTie(Strict):
    """Names of one parameter or buffer, as `lit_share.aliases` describes them.

    Attributes:
        names: The names, with ``.T`` after that of a transpose.
    """

    names: Annotated[tuple[str, ...], Field(min_length=1)]


class Manifest(Strict):
    """The manifest.

    Attributes:
        version: Of the file format.
        tensors: How each tensor is stored, in the order in which they are decoded.
        ties: Which of the tensors are one parameter.
        codebooks: The modules that are codebook layers.
        checksums: A CRC-32 of each entry of the file.
    """

    version: Literal[1] = VERSION
    tensors: dict[str, AnyStored]
    ties: tuple[RecordedTie, ...] = ()
    codebooks: tuple[str, ...] = ()
    checksums: dict[str, Count]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, stored, earlier in in_order(self.tensors):
            try:
                stored.check(earlier)
            except ValueError as error:
                raise ValueError(f"{name!r} {error}") from None
        for tie in self.ties:
            _check_tie(tie, self.tensors)
        for name in self.codebooks:
            _check_codebook(name, self.tensors)
        return self

    def dump(self) -> str:
        """As JSON."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """The inverse of `dump`, or a `CompactFileError`."""
        try:
            version = _Version.model_validate_json(text).version
            if version > VERSION:
                raise CompactFileError(f"has format {version}: {_NEWER}")
            return cls.model_validate_json(text)
        except ValidationError as error:
            if error.errors()[0]["type"] in ("union_tag_invalid", "extra_forbidden"):
                raise CompactFileError(
                    f"has something unknown in its manifest ({first_problem(error)}): {_NEWER}"
                ) from None
            raise CompactFileError(
                f"is damaged: its manifest is wrong: {first_problem(error)}"
            ) from None


_NEWER = "it was written by a newer lit_share, so update this one"


class _Version(BaseModel):
    version: Annotated[int, Field(ge=1)]


def first_problem(error: ValueError) -> str:
    """The first problem that `pydantic` found, in a line; another error as it is."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return visible(f"{where!r}: {message}" if where else message)


def _check_tie(tie: RecordedTie, tensors: Mapping[str, Stored]) -> None:
    if len(set(tie.names)) < len(tie.names):
        raise ValueError(f"a tie of {tie.names[0]!r} names a parameter twice")
    for name in tie.names:
        stored = tensors.get(name) or tensors.get(name.removesuffix(".T"))
        if stored is None:
            raise ValueError(f"a tie names {name!r}, which is not in the file")
        if name not in tensors and len(stored.shape) != 2:
            raise ValueError(f"a tie names {name!r}, which is not a matrix")


def name_of_part(name: str, part: str) -> str:
    """The name of a tensor of a layer, which may be the whole module."""
    return f"{name}.{part}" if name else part


def _check_codebook(name: str, tensors: Mapping[str, Stored]) -> None:
    assignment, weight = (
        tensors.get(name_of_part(name, part)) for part in ("assignment", "weight")
    )
    if assignment is None or weight is None:
        raise ValueError(f"a codebook {name!r} is not in the file")
    if (
        assignment.dtype != "I64"
        or len(assignment.shape) != 1
        or not assignment.numel
        or len(weight.shape) < 2
    ):
        raise ValueError(f"{name!r} is not of the shape of a codebook")
