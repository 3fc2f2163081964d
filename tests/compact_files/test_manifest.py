"""Manifests that nobody would write by accident."""

from __future__ import annotations

import json
import random as any_of
import resource

import pytest
import torch

from lit_share.compact_files import CompactFileError, pack, read, unpack, write
from lit_share.compact_files._bits import checksum

from ._zoo import assert_same_bits, forge, random, read_raw, write_raw


def tensors():
    a, b = random(100, 32), torch.zeros(60, 32)
    b[3] = a[3]
    c = a.flip(0)
    c[5] = 2.0
    return {"a": a, "b": b, "c": c, "d": a.T}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    write(pack(tensors(), [{"names": ["a", "d.T"]}]), path)
    return path


def message(path):
    with pytest.raises(CompactFileError) as error:
        unpack(read(path))
    assert len(str(error.value)) < 1000
    return str(error.value)


def updated(name, **values):
    def change(manifest):
        manifest["tensors"][name].update(values)

    return change


def test_untouched(path):
    forge(path, lambda manifest: None)
    assert_same_bits(unpack(read(path)), tensors())
    assert {n: s.kind for n, s in read(path).manifest.tensors.items()} == {
        "a": "own", "b": "rows", "c": "rows", "d": "same",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda m: m.update(version=2),
            "has format 2: it was written by a newer lit_share, so update this one",
        ),
        (
            updated("a", kind="codebook"),
            r"unknown in its manifest \('tensors.a': .*'codebook'.*: it was written by a newer",
        ),
        (
            lambda m: m["ties"].append({"names": ["a"], "codebook": 1}),
            "has something unknown .*a newer lit_share",
        ),
        (lambda m: m.update(version=0), "its manifest is wrong: 'version'"),
        (lambda m: m.pop("version") and None, "its manifest is wrong: 'version': Field required"),
        (lambda m: m.pop("tensors") and None, "'tensors': Field required"),
        (updated("a", dtype="F13"), "unknown dtype 'F13'"),
        (updated("a", shape=[-1, 32]), "greater than or equal to 0"),
        (updated("a", shape=[2**63, 32]), "less than"),
        (updated("a", shape=[1e3, 32]), "valid integer"),
        (updated("a", shape=[True, 32]), "valid integer"),
        (updated("a", shape=[1] * 65), "at most 64 items"),
        (updated("d", shape=[2**62, 2**62]), "'d' is the same as 'a', but of another shape"),
        (updated("a", shape=[2**62, 32]), "'b' has more rows to choose from than there can be"),
        (updated("a", shape=[32, 100]), "shape"),
        (
            updated("a", nonzero=5),
            "is the same as 'a', but of another shape, dtype or number of non-zero elements",
        ),
        (updated("b", nonzero=5), "has a broken 'b': not 5 elements are other than zero"),
        (updated("c", bases=["c"]), "'c' has rows of 'c', which is not before it"),
        (updated("c", bases=["d"]), "'c' has rows of 'd', which is not before it"),
        (updated("c", bases=["e"]), "'c' has rows of 'e', which is not before it"),
        (updated("c", bases=["a", "a"]), "'c' has a base twice"),
        (updated("c", own=1000), "'c' has more rows of its own than rows"),
        (
            updated("c", own=2**63 - 1, shape=[2**63 - 1, 32]),
            "'c' has more rows to choose from than there can be",
        ),
        (updated("c", own=0), "is not what its manifest says"),
        (updated("c", shape=[100, 0]), "'c' has no rows to be stored once"),
        (updated("c", shape=[]), "'c' has no rows to be stored once"),
        (
            updated("c", shape=[100, 31]),
            "'c' has rows of 'a', whose rows are of another shape or dtype",
        ),
        (updated("c", bases=["b"]), "'c' has a broken|its index names a row|not what"),
        (updated("d", of="d"), "'d' is the same as 'd', which is not before it"),
        (updated("d", of="nobody"), "'d' is the same as 'nobody', which is not before it"),
        (updated("d", transposed=False), "'d' is the same as 'a', but of another shape"),
        (updated("d", shape=[32, 100, 1]), "'d' is transposed, but not a matrix"),
        (
            lambda m: m["ties"].append({"names": ["a", "z"]}),
            "a tie names 'z', which is not in the file",
        ),
        (lambda m: m["ties"].append({"names": ["a", "c"]}), "'a' and 'c' are tied, but not equal"),
        (lambda m: m["ties"].append({"names": ["a", "a"]}), "names a parameter twice"),
        (lambda m: m["ties"].append({"names": ["a"], "rows": [1]}), "something unknown"),
        (lambda m: m["ties"].append({"names": []}), "at least 1 item"),
        (lambda m: m["checksums"].update(a=-1), "greater than or equal to 0"),
        ("[1, 2", "Invalid JSON"),
        ("[]", "Input should be a valid dictionary"),
        ('{"version": 1, "tensors": ' + "[" * 50_000, "recursion limit"),
        ('{"version": 1, "tensors": ' + '{"a":' * 50_000, "recursion limit"),
        ('{"version": 1' + "0" * 10_000 + "}", "Invalid JSON"),
        ('{"version": NaN}', "finite number"),
    ],
)
def test_forged(path, change, problem):
    forge(path, change)
    with pytest.raises(CompactFileError, match=problem):
        unpack(read(path))


def test_a_name_twice(path):
    forge(
        path,
        json.dumps(json.loads(read_raw(path)[0]["__metadata__"]["lit_share"]))[:-1]
        + ', "tensors": {}}',
    )
    assert "a tie names 'a', which is not in the file" in message(path)


@pytest.mark.parametrize(
    ("entry", "value", "problem"),
    [
        ("c#index", 255, "has a broken 'c': its index names a row that does not exist"),
        (
            "s#mask",
            255,
            "has a broken 's': its mask does not mark as many elements as there are values",
        ),
        ("s#values", 0, "has a broken 's': not [0-9]+ elements are other than zero"),
        ("p#index", 255, "has a broken 'p': its index names a value that does not exist"),
        ("q#index", 255, "has a broken 'q': its index has bits of numbers that do not exist"),
        ("q#index", 0, "has a broken 'q': not [0-9]+ elements are other than zero"),
    ],
)
def test_entries_that_contradict_the_manifest(path, entry, value, problem):
    sparse = torch.zeros(50, 50)
    sparse[3] = torch.arange(1.0, 51.0)
    # Indices of two bits, of which one means nothing; and of a bit, the last byte partly used.
    palettes = {"p": torch.arange(1000) % 3, "q": torch.arange(1001) % 2}
    packed = pack({**tensors(), "s": sparse, **palettes})
    packed.entries[entry].view(torch.uint8).fill_(value)
    right = packed.manifest.checksums | {entry: checksum(packed.entries[entry])}
    forged = packed.manifest.model_copy(update={"checksums": right})
    write(type(packed)(packed.entries, forged), path)
    with pytest.raises(CompactFileError, match=problem):
        unpack(read(path))


def test_names_are_shown_without_control_characters(path):
    forge(path, updated("a", **{"\x1b[31m": 3}))
    assert "\x1b" not in message(path)


def test_nothing_large_is_made_of_a_small_file(path):
    """A petabyte by reference: described, but neither read nor made."""
    header, data = read_raw(path)
    write_raw(path, header, data)

    def change(manifest):
        same = manifest["tensors"]["d"]
        manifest["tensors"].update({f"d{i}": same for i in range(10_000)})

    forge(path, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read(path).manifest.tensors) > 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_random_manifests(path):
    """Whatever is in a manifest, loading raises `CompactFileError` or gives the same tensors."""
    content = path.read_bytes()
    chance = any_of.Random(0)
    values = [
        0,
        1,
        -1,
        2**31,
        2**63 - 1,
        2**64,
        1.5,
        None,
        True,
        "",
        "a",
        "b",
        "zz",
        [],
        {},
        [0],
        ["a"],
        [32, 100],
        "same",
    ]

    def scramble(node):
        key = (
            chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if node
            else None
        )
        if key is None:
            return
        if isinstance(node[key], dict | list) and chance.random() < 0.8:
            scramble(node[key])
        elif chance.random() < 0.2:
            del node[key]
        else:
            node[key] = chance.choice(values)

    for _ in range(400):
        path.write_bytes(content)
        forge(path, scramble)
        try:
            found = unpack(read(path))
        except CompactFileError:
            continue
        assert_same_bits(
            found, {name: tensor for name, tensor in tensors().items() if name in found}
        )
