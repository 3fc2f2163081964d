"""The manifest of a compact file, which says how to restore tensors and ties from entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, Strict, TypeAdapter, ValidationError, model_validator
from pydantic_core import from_json
from typing_extensions import Self

from lit_share.compact_files._error import CompactFileError
from lit_share.compact_files._layout import in_order
from lit_share.compact_files._own import Own
from lit_share.compact_files._palette import Palette
from lit_share.compact_files._rows import Rows
from lit_share.compact_files._same import Same
from lit_share.compact_files._sparse import Sparse
from lit_share.compact_files._stored import Count, Part, Sequenced, Stored
from lit_share.text import visible

VERSION: Final = 1
# A name that is quoted may be as long as the file.
_MAX_CHARACTERS = 800

AnyStored = Annotated[Own | Same | Sparse | Rows | Palette, Field(discriminator="kind")]


class RecordedTie(Part):
    """Aliases: the names of one parameter or buffer, with ``.T`` after the name of a transpose."""

    names: Annotated[Sequenced[str], Field(min_length=1)]


class Manifest(Part):
    """The manifest.

    Attributes:
        version: Version of the file format.
        tensors: How each tensor is stored, in decoding order.
        ties: The tensors that are the same parameter.
        codebooks: The modules that are codebook layers.
        checksums: A CRC-32 of each entry.
    """

    version: Literal[1] = VERSION
    tensors: dict[str, AnyStored]
    ties: Sequenced[RecordedTie] = ()
    codebooks: Sequenced[str] = ()
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
        if len(set(self.codebooks)) < len(self.codebooks):
            raise ValueError("a codebook is named twice")
        for name in self.codebooks:
            _check_codebook(name, self.tensors)
        return self

    def dump(self) -> str:
        """Return the manifest as JSON."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Invert `dump`, or raise `CompactFileError` if the JSON is invalid or newer."""
        try:
            content = from_json(text, cache_strings=False)
        except ValueError as error:
            raise CompactFileError(f"{_WRONG}: Invalid JSON: {error}") from None
        # The version comes first, because a newer format may have other fields.
        version = _validated(_VERSION, content).version
        if version > VERSION:
            raise CompactFileError(f"has format {version}: {_NEWER}")
        # pydantic collects all errors, which take 2 kB each, so that a file of three bytes for each
        # would take a thousand times its size: parts are validated until the first one is wrong.
        kinds: dict[str, TypeAdapter[Any]] = {"tensors": _STORED, "checksums": _COUNT}
        for field, kind in kinds.items():
            if isinstance(content.get(field), dict):
                parts = content[field].items()
                content[field] = {n: _validated(kind, each, f"{field}.{n}") for n, each in parts}
        return _validated(_MANIFEST, content)


def first_problem(error: ValueError, where: str = "") -> str:
    """Format the first problem that pydantic found in one line, or any other error.

    Args:
        error: The error.
        where: The path of what was validated, to put before the place that pydantic names.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(filter(None, [where, *map(str, first["loc"])]))
    message = first["msg"].removeprefix("Value error, ")
    if where:
        message = f"{where!r}: {message}"
    return visible(message[:_MAX_CHARACTERS])


_WRONG = "is damaged: its manifest is wrong"
_NEWER = "it was written by a newer lit_share, so update this one"


# This model ignores unknown fields, which `Manifest` forbids.
class _Version(BaseModel):
    version: Annotated[int, Field(ge=1)]


_T = TypeVar("_T")
_VERSION, _MANIFEST = TypeAdapter(_Version), TypeAdapter(Manifest)
_STORED: TypeAdapter[AnyStored] = TypeAdapter(AnyStored)
_COUNT: TypeAdapter[int] = TypeAdapter(Annotated[Count, Strict()])


def _validated(kind: TypeAdapter[_T], content: object, where: str = "") -> _T:
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        problem = first_problem(error, where)
        # The checksum was right, so an unknown field is no damage.
        if error.errors()[0]["type"] in ("union_tag_invalid", "extra_forbidden"):
            problem = f"has something unknown in its manifest ({problem}): {_NEWER}"
            raise CompactFileError(problem) from None
        raise CompactFileError(f"{_WRONG}: {problem}") from None


def _check_tie(tie: RecordedTie, tensors: Mapping[str, Stored]) -> None:
    if len(set(tie.names)) < len(tie.names):
        raise ValueError(f"a tie of {tie.names[0]!r} names a parameter twice")
    for name in tie.names:
        # A parameter may itself be named T, so the exact name has priority.
        stored = tensors.get(name) or tensors.get(name.removesuffix(".T"))
        if stored is None:
            raise ValueError(f"a tie names {name!r}, which is not in the file")
        if name not in tensors and len(stored.shape) != 2:
            raise ValueError(f"a tie names {name!r}, which is not a matrix")


def name_of_part(name: str, part: str) -> str:
    """Return the name of a layer's tensor; the name of the root module is empty."""
    if not name:
        return part
    return f"{name}.{part}"


def _check_codebook(name: str, tensors: Mapping[str, Stored]) -> None:
    assignment = tensors.get(name_of_part(name, "assignment"))
    weight = tensors.get(name_of_part(name, "weight"))
    if assignment is None or weight is None:
        raise ValueError(f"a codebook {name!r} is not in the file")
    is_list = assignment.dtype == "I64" and len(assignment.shape) == 1 and assignment.numel
    if not is_list or len(weight.shape) < 2:
        raise ValueError(f"{name!r} is not of the shape of a codebook")
