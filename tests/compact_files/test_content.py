"""Files are read once: what is returned was verified, whatever happens to the file meanwhile."""

from __future__ import annotations

import json
import os
import random as any_of
import struct
from functools import partial

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lit_share.compact_files import (
    CompactFileError,
    _file,
    entry_specs,
    load_compact,
    read,
    save_compact,
    unpack,
)
from lit_share.compact_files._bits import DTYPES as DTYPES_BY_CODE
from lit_share.compact_files._content import read_entries, read_header

from ._hostile import MUTATIONS
from ._zoo import DTYPES, assert_same_bits, random


@pytest.fixture
def path(tmp_path):
    save_compact(nn.Linear(300, 300), tmp_path / "file")
    return tmp_path / "file"


def overwrite(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 5000)
        file.write(b"\xff" * 4000)


def append(path):
    with path.open("ab") as file:
        file.write(b"\xff" * 4000)


def replace(path):
    other = path.with_name("other")
    save_compact(nn.Linear(300, 300), other)
    other.replace(path)


CHANGES = {
    "overwrite": overwrite,
    "append": append,
    "replace": replace,
    "remove": lambda path: path.unlink(),
    **{f"cut to {size}": partial(os.truncate, length=size) for size in (0, 4, 100, 2000, 300_000)},
}  # fmt: skip
REFUSED = {"overwrite", *(name for name in CHANGES if name.startswith("cut"))}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_after_it_was_read(path, change):
    right, packed = load_file(path), read(path)
    right = {name: tensor.clone() for name, tensor in right.items()}
    CHANGES[change](path)
    assert_same_bits(unpack(packed), right)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read(path, change, monkeypatch):
    """After its header was read, which said how long it is."""
    right = {name: tensor.clone() for name, tensor in load_file(path).items()}

    def after_a_change(file, header):
        CHANGES[change](path)
        return read_entries(file, header)

    monkeypatch.setattr(_file, "read_entries", after_a_change)
    module = nn.Linear(300, 300)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    if change in REFUSED:
        with pytest.raises(CompactFileError, match=r"became shorter while it was read|is damaged"):
            load_compact(path, module)
        assert_same_bits(module.state_dict(), before)
    else:
        load_compact(path, module)
        assert_same_bits(module.state_dict(), right)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entries_are_those_that_safetensors_reads(tmp_path, dtype):
    # Odd sizes, so that entries begin at addresses that are no multiples of their elements' sizes.
    tensors = {"a": random(3, dtype=dtype), "b": random(5, 7, dtype=dtype), "c": torch.empty(0, 2),
               "bytes": random(3, dtype=torch.uint8), "d": random(1, dtype=dtype)[0]}  # fmt: skip
    save_file(tensors, tmp_path / "file", {"format": "pt"})
    with (tmp_path / "file").open("rb") as file:
        assert_same_bits(read_entries(file, read_header(file)), load_file(tmp_path / "file"))
    specs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert {name: shape for name, (_, shape) in entry_specs(tmp_path / "file").items()} == specs


def test_headers_are_those_that_safetensors_accepts(path):
    """Of 1,500 files that were changed, no one is read that safetensors refuses, or otherwise."""
    save_compact(nn.Linear(30, 20), path)
    content, chance, accepted = path.read_bytes(), any_of.Random(0), 0
    with path.open("rb") as file:
        assert read_header(file).specs
    for _ in range(1500):
        try:
            changed = chance.choice(MUTATIONS)(content, chance)
        except Exception:  # it has no header any more
            continue
        path.write_bytes(changed)
        with path.open("rb") as file:
            try:
                header = read_header(file)
                # A manifest names known dtypes only.
                if not {dtype for dtype, _ in header.specs.values()} <= DTYPES_BY_CODE.keys():
                    continue
                entries = read_entries(file, header)
            except CompactFileError:
                continue
        # JSON lets a name stand twice, and all parsers but this one take the last.
        if changed.count(b"__metadata__") > 1:
            continue
        theirs = dict(safetensors.deserialize(changed))
        assert theirs.keys() == entries.keys()
        for name, tensor in entries.items():
            assert list(tensor.shape) == theirs[name]["shape"]
            assert tensor.numpy().tobytes() == bytes(theirs[name]["data"])
        accepted += 1
    assert accepted > 100


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": 3}, "has not a dtype, a shape and two offsets"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "has not a dtype"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "no numbers of"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "no numbers of"),
        ({"a": {"dtype": "F32", "shape": [10**50], "data_offsets": [0, 4]}}, "no numbers of"),
        ({"a": {"dtype": "F32", "shape": [2] * 70, "data_offsets": [0, 4]}}, "no numbers of"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, "no numbers of"),
        ({"a": {"dtype": 32, "shape": [1], "data_offsets": [0, 4]}}, "is not a text"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "not as many bytes as"),
        ({"a": {"dtype": "F32", "shape": [2**40] * 3, "data_offsets": [0, 4]}}, "not as many"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}, "does not begin where"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, "not as long as its data"),
        ({"__metadata__": {"lit_share": 3}}, "its metadata are not texts"),
        ({"__metadata__": [3]}, "its metadata are not texts"),
    ],
)
def test_wrong_headers(path, header, reason):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"1234")
    with pytest.raises(CompactFileError, match=f"is not a safetensors file.*{reason}"):
        read(path)
    assert entry_specs(path) is None


def test_a_file_larger_than_memory_is_a_sentence(path):
    """A terabyte of nothing, as a hole takes no space on a disk."""
    size = 1 << 46
    header = {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        os.truncate(path, 8 + len(text) + size)
    except OSError:
        pytest.skip("the filesystem has no files of this size")
    with path.open("rb") as file, pytest.raises(CompactFileError, match="bytes of memory for its"):
        read_entries(file, read_header(file))
