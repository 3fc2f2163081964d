"""Mutations of valid files, and the meaning that they should have."""

from __future__ import annotations

import io
import json
import math
import pickle
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

SIZES = {
    "BOOL": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8,
    "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1,
}  # fmt: skip

ODD: list[Any] = [
    0, 1, -1, 2, 7, 255, 256, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, 1.0,
    1.5, -0.0, 1e308, float("nan"), float("inf"), None, True, False, "", "0", "a", "a.weight",
    "b.weight", "b.weight.T", "__metadata__", "../../etc/passwd", "/etc/passwd", "os.system",
    "__import__('os').system('touch pwned')", "__class__", "\x1b[31m", "\x00", "a" * 3000, "own",
    "same", "rows", "sparse", "palette", "F32", "F4", "I64", "BOOL", [], {}, [[]], [0], [-1],
    [0, 0],
    ["a.weight"], ["a.weight", "b.weight"], ["a.weight", "a.weight"], [2**62, 2**62], [2**63 - 1],
    [0] * 70, {"a": 1}, {"names": ["a.weight", "b.weight"]},
    {"names": ["a.weight", "b.weight"], "rows": [0]}, {"names": ["a.weight", "b.weight.T"]},
    {"names": ["a.bias", "b.bias"]}, {"names": ["b.bias", "a.bias"]},
]  # fmt: skip


class Raw:
    """A file in its parts, which can be put together again whether they fit or not."""

    def __init__(self, content: bytes) -> None:
        (size,) = struct.unpack("<Q", content[:8])
        self.header: dict[str, Any] = json.loads(content[8 : 8 + size])
        self.data = content[8 + size :]
        self.metadata: dict[str, Any] = self.header["__metadata__"]
        self.manifest: dict[str, Any] = json.loads(self.metadata["lit_share"])

    @property
    def entries(self) -> dict[str, Any]:
        return {name: entry for name, entry in self.header.items() if name != "__metadata__"}

    def with_manifest(self, manifest: Any) -> Raw:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        self.metadata |= {
            "lit_share": text,
            "lit_share_crc32": str(zlib.crc32(text.encode(errors="replace"))),
        }
        return self

    def content(self, header: str | bytes | None = None, size: int | None = None) -> bytes:
        text = json.dumps(self.header) if header is None else header
        written = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        return struct.pack("<Q", len(written) if size is None else size) + written + self.data


def checksum(dtype: str, shape: Any, numbers: bytes) -> int:
    return zlib.crc32(numbers, zlib.crc32(f"{dtype}{list(shape)}".encode()))


# What a file means


def reference(content: bytes) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Return the bits of all tensors and the ties of a valid file, by element and by row."""
    raw = Raw(content)
    mark = "#" * (
        1
        + max(
            [len(run) for name in raw.manifest["tensors"] for run in re.findall("#+", name)],
            default=0,
        )
    )

    def entry(name: str, suffix: str = "") -> np.ndarray:
        described = raw.header[f"{name}{mark}{suffix}" if suffix else name]
        begin, end = described["data_offsets"]
        numbers = np.frombuffer(raw.data[begin:end], f"u{SIZES[described['dtype']]}")
        return numbers.reshape(described["shape"])

    def filled(name: str, shape: list[int], like: np.ndarray) -> np.ndarray:
        mask, values = entry(name, "mask"), iter(like.tolist())
        count = int(np.prod(shape, dtype=object))
        ones = [mask[i // 8] >> (7 - i % 8) & 1 for i in range(count)]
        return np.array([next(values) if one else 0 for one in ones], like.dtype).reshape(shape)

    found: dict[str, np.ndarray] = {}
    for name, stored in raw.manifest["tensors"].items():
        shape = stored["shape"]
        if stored["kind"] == "own":
            found[name] = entry(name)
        elif stored["kind"] == "same":
            found[name] = found[stored["of"]].T if stored.get("transposed") else found[stored["of"]]
        elif stored["kind"] == "sparse":
            found[name] = filled(name, shape, entry(name, "values"))
        elif stored["kind"] == "palette":
            palette, packed = entry(name, "palette"), entry(name, "index")
            width = max(1, math.ceil(math.log2(stored["values"])))
            digits = "".join(f"{byte:08b}" for byte in packed.tolist())
            count = int(np.prod(shape, dtype=object))
            at = [int(digits[i * width : (i + 1) * width], 2) for i in range(count)]
            found[name] = palette[at].reshape(shape)
        else:
            rows = [row for base in stored["bases"] for row in found[base]]
            if stored["own"] and stored.get("own_nonzero") is not None:
                rows += list(filled(name, [stored["own"], *shape[1:]], entry(name, "values")))
            elif stored["own"]:
                rows += list(entry(name, "rows"))
            found[name] = np.array([rows[i] for i in entry(name, "index")])
        assert list(found[name].shape) == shape
    return found, raw.manifest.get("ties", [])


# Bytes


def _bit(content: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[
        : chance.choice([chance.randrange(len(content)), chance.randrange(40), len(content) - 1])
    ]


def _cut_at_a_boundary(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    start = len(content) - len(raw.data)
    ends = [start + end for entry in raw.entries.values() for end in entry["data_offsets"]]
    return content[
        : max(0, chance.choice([0, 7, 8, 9, start, *ends]) + chance.choice([-1, 0, 0, 1]))
    ]


def _insert(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.randbytes(chance.choice([1, 8, 100])) + content[at:]


def _leave_out(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + content[at + chance.choice([1, 8, 100]) :]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(content)), chance.choice([1, 16, 300])
    return content[:at] + content[at : at + size] + content[at:]


def _other_program(content: bytes, chance: random.Random) -> bytes:
    packed, saved = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    torch.save({"state_dict": {"a.weight": torch.zeros(2)}, "bomb": Bomb()}, saved)
    others = [
        b"", b"\x00" * 8, b"\xff" * 8, b"{}", struct.pack("<Q", 2) + b"{}", pickle.dumps(Bomb()),
        packed.getvalue(), saved.getvalue(), content + saved.getvalue(),
        b"\x1f\x8b\x08" + chance.randbytes(50), b"\x93NUMPY\x01\x00",
        chance.randbytes(chance.choice([9, 100, 5000])), content[:8] + pickle.dumps(Bomb()),
    ]  # fmt: skip
    return chance.choice(others)


class Bomb:
    """Whoever unpickles it, runs it."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise AssertionError("a pickle was loaded")


# Headers


def _length(content: bytes, chance: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    other = chance.choice(
        [0, 1, size - 1, size + 1, size * 2, 10**8, 10**8 + 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
    )
    return struct.pack("<Q", other) + content[8:]


def _offsets(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    entry, other = (chance.choice(list(raw.entries.values())) for _ in range(2))
    begin, end = entry["data_offsets"]
    entry["data_offsets"] = chance.choice(
        [[end, begin], [begin, end + 1], [begin + 1, end + 1], [begin - 1, end], [-1, -1],
         [0, 2**63], [2**64 - 1, 0], [begin], [], [begin, end, end], other["data_offsets"],
         [len(raw.data), len(raw.data)], [0, len(raw.data)], [float(begin), end],
         [str(begin), end], None, [0, 10**30]]
    )  # fmt: skip
    return raw.content()


def _entry(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    name = chance.choice(list(raw.entries))
    what = chance.choice(["dtype", "shape", "name", "remove", "extra", "any", "type"])
    if what == "name":
        raw.header[chance.choice([s for s in ODD if isinstance(s, str)])] = raw.header.pop(name)
    elif what == "remove":
        del raw.header[name]
    elif what == "extra":
        raw.header[f"{name}_"] = {**raw.header[name]}
    elif what == "type":
        raw.header[name] = chance.choice(ODD)
    elif what == "any":
        raw.header[name][chance.choice(["dtype", "shape", "data_offsets", "more"])] = chance.choice(
            ODD
        )
    else:
        odd = ["F4", "F6_E2M3", "I128", "f32", "U8", "F64", "C64", "C128", "", 3]
        shapes = [
            [],
            [0],
            [2**63, 2],
            [-1],
            [2**62, 2**62],
            [1] * 100,
            raw.header[name]["shape"][::-1],
            [1.0],
            "3",
        ]
        raw.header[name][what] = chance.choice(odd if what == "dtype" else shapes)
    return raw.content()


def _metadata(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    key = chance.choice(["lit_share", "lit_share_crc32", "format", "other", None])
    if key is None:
        raw.header["__metadata__"] = chance.choice(ODD)
    elif chance.random() < 0.3:
        raw.metadata.pop(key, None)
    else:
        raw.metadata[key] = chance.choice(ODD)
    return raw.content()


def _text_of_header(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    text, name = json.dumps(raw.header), chance.choice(list(raw.entries))
    entry = json.dumps(raw.header[name])
    changed: str | bytes = chance.choice(
        [
            text[:-1] + f", {json.dumps(name)}: {entry}}}",  # a key twice
            text[:-1] + f", {json.dumps(name)}: {entry.replace('F32', 'I32')}}}",
            text[:-1] + ', "__metadata__": {}}',
            text[:-1] + f', "__metadata__": {json.dumps(raw.metadata)}}}',
            text.replace('"shape": [', '"shape": [NaN, ', 1),
            text.replace('"data_offsets": [', '"data_offsets": [Infinity, ', 1),
            text.replace('"data_offsets": [', '"data_offsets": [1e1, ', 1),
            text.replace('"data_offsets": [', '"data_offsets": [00', 1),
            text.encode().replace(name.encode(), b"\xff\xfe", 1),
            text.replace(name, r"\ud800", 1),
            text.replace(name, r"\u0000", 1),
            text + " " * chance.choice([1, 7, 5000]),
            " " + text,
            "\ufeff" + text,
            text + "{}",
            text[:-1],
            "[" * 100_000,
            '{"a":' * 100_000,
            text[:-1] + ', "deep": ' + "[" * 50_000 + "]" * 50_000 + "}",
            "[]", "null", "3", '""', "{", "",
        ]
    )  # fmt: skip
    return raw.content(changed)


# Manifests with the right checksum


def _scramble(node: Any, chance: random.Random) -> None:
    key = (
        chance.choice(list(node) if isinstance(node, dict) else range(len(node))) if node else None
    )
    if key is None:
        return
    if isinstance(node[key], dict | list) and chance.random() < 0.85:
        _scramble(node[key], chance)
    elif chance.random() < 0.15:
        del node[key]
    elif isinstance(node[key], int) and chance.random() < 0.3:
        node[key] += chance.choice([-1, 1])
    elif isinstance(node, dict) and chance.random() < 0.1:
        node[str(chance.choice(ODD))] = chance.choice(ODD)
    elif isinstance(node, list) and chance.random() < 0.3:
        node.append(chance.choice(ODD))
    else:
        node[key] = chance.choice(ODD)


def _manifest(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    for _ in range(chance.choice([1, 1, 2, 3])):
        _scramble(raw.manifest, chance)
    return raw.with_manifest(raw.manifest).content()


def _tensor(content: bytes, chance: random.Random) -> bytes:
    """Another way to store one tensor."""
    raw = Raw(content)
    tensors = raw.manifest["tensors"]
    name, other = (chance.choice(list(tensors)) for _ in range(2))
    key = chance.choice(
        [
            "kind",
            "of",
            "transposed",
            "bases",
            "own",
            "own_nonzero",
            "nonzero",
            "values",
            "shape",
            "dtype",
            "all",
        ]
    )
    if key == "all":
        tensors[name] = {**tensors[other]}
    elif key in ("of", "bases"):
        tensors[name][key] = other if key == "of" else [other]
    elif key in tensors[other]:
        tensors[name][key] = tensors[other][key]
    else:
        tensors[name][key] = chance.choice(ODD)
    return raw.with_manifest(raw.manifest).content()


def _order(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    for key in ("tensors", "checksums"):
        items = list(raw.manifest[key].items())
        chance.shuffle(items)
        raw.manifest[key] = dict(items)
    return raw.with_manifest(raw.manifest).content()


def _ties(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    places = [f"{name}{suffix}" for name in raw.manifest["tensors"] for suffix in ("", "", ".T")]
    ties = raw.manifest.setdefault("ties", [])
    for _ in range(chance.choice([1, 1, 2, 5])):
        tie: dict[str, Any] = {
            "names": [chance.choice(places) for _ in range(chance.choice([1, 2, 2, 3]))]
        }
        if chance.random() < 0.1:
            tie["rows"] = [chance.choice([0, 1, 2**62, -1, True, 3]) for _ in range(3)]
        ties.insert(chance.randrange(len(ties) + 1), tie)
    if chance.random() < 0.3:
        chance.shuffle(ties)
    if chance.random() < 0.2:
        ties.extend([*ties])
    return raw.with_manifest(raw.manifest).content()


def _codebooks(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    names = [
        "",
        "a",
        "b",
        "book",
        "norm",
        "local",
        "..",
        "a.",
        "weight",
        "training",
        "forward",
        "__class__",
        "explode",
    ]
    raw.manifest["codebooks"] = [chance.choice(names) for _ in range(chance.choice([1, 1, 2]))]
    if chance.random() < 0.5:
        name = raw.manifest["codebooks"][0]
        tensors = raw.manifest["tensors"]
        chosen = [s for s in tensors.values() if s["dtype"] == "I64"] or list(tensors.values())
        tensors[f"{name}.assignment"] = chance.choice(chosen)
        tensors[f"{name}.weight"] = chance.choice(list(tensors.values()))
    return raw.with_manifest(raw.manifest).content()


def _text_of_manifest(content: bytes, chance: random.Random) -> bytes:
    raw = Raw(content)
    text = json.dumps(raw.manifest)
    return raw.with_manifest(
        chance.choice(
            [
                text[:-1] + ', "tensors": {}}',
                text[:-1] + f', "checksums": {json.dumps(raw.manifest["checksums"])}}}',
                text[:-1] + ', "version": 2}',
                text[:-1] + ', "more": 1}',
                text.replace('"shape": [', '"shape": [NaN, ', 1),
                text.replace('"nonzero": ', '"nonzero": -Infinity, "nonzero": ', 1),
                text.replace('"nonzero": ', '"nonzero": 1e0, "nonzero2": ', 1),
                text.replace('"kind": "own"', '"kind": "own", "kind": "same"', 1),
                text.replace('"kind": "own"', '"kind": "same", "kind": "own"', 1),
                text.replace("weight", r"\ud800", 1),
                text.replace("weight", r"\u0000"),
                text.replace("weight", "weight\x1b[2J"),
                text[: chance.randrange(len(text))],
                text + text,
                "[" * 100_000,
                '{"version": 1, "tensors": ' + '{"a":' * 100_000,
                '{"version": 1' + "0" * 10_000 + "}",
                "", "null", "3", "[]", "{}", '"x"', '{"version": 1}',
                '{"version": 1, "tensors": {}, "checksums": {}}',
            ]
        )
    ).content()  # fmt: skip


def _numbers(content: bytes, chance: random.Random) -> bytes:
    """Other numbers in an entry, with the right checksum."""
    raw = Raw(content)
    numbers = bytearray(raw.data)
    choices = [name for name in raw.entries if "#" in name] or list(raw.entries)
    name = chance.choice(choices if chance.random() < 0.7 else list(raw.entries))
    entry = raw.header[name]
    begin, end = entry["data_offsets"]
    if begin == end:
        return raw.content()
    for _ in range(chance.choice([1, 2, 50])):
        numbers[chance.randrange(begin, end)] = chance.choice(
            [0, 1, 7, 128, 255, chance.randrange(256)]
        )
    raw.data = bytes(numbers)
    raw.manifest["checksums"][name] = checksum(entry["dtype"], entry["shape"], raw.data[begin:end])
    if chance.random() < 0.7:  # with the right count of nonzero numbers
        try:
            found, _ = reference(raw.with_manifest(raw.manifest).content())
        except (IndexError, StopIteration, ValueError):
            found = {}
        for tensor, bits in found.items():
            raw.manifest["tensors"][tensor]["nonzero"] = int(np.count_nonzero(bits))
    return raw.with_manifest(raw.manifest).content()


def _much(content: bytes, chance: random.Random) -> bytes:
    """Much of something, in few bytes."""
    raw = Raw(content)
    tensors, ties = raw.manifest["tensors"], raw.manifest.setdefault("ties", [])
    first = next(
        name for name, stored in tensors.items() if stored["kind"] == "own" and stored["shape"]
    )
    same = {**tensors[first], "kind": "same", "of": first, "transposed": False}
    what = chance.choice(["tensors", "names", "ties", "codebooks", "shape"])
    if what == "tensors":
        tensors |= {f"{first}{i}": same for i in range(300)}
    elif what == "names":
        ties.append({"names": [first] * 2000})
    elif what == "ties":
        ties.extend([{"names": [first, first]}] * 500)
    elif what == "codebooks":
        raw.manifest["codebooks"] = ["book"] * 2000
    else:
        for size in (2**20, 2**40, 2**62):
            tensors[f"z{size}"] = {
                "kind": "sparse",
                "dtype": "F64",
                "shape": [size, size],
                "nonzero": 0,
            }
    return raw.with_manifest(raw.manifest).content()


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    _bit, _cut, _cut_at_a_boundary, _insert, _leave_out, _repeat, _other_program, _length, _offsets,
    _entry, _metadata, _text_of_header, _manifest, _manifest, _tensor, _tensor, _order, _ties,
    _ties, _ties, _codebooks, _text_of_manifest, _numbers, _numbers, _numbers, _much,
]  # fmt: skip
