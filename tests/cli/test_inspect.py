"""`lit-share inspect`."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lit_share.compact_files import pack, save_compact, write


@pytest.fixture
def path(tied, tmp_path):
    save_compact(tied, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_table(run, path, tied):
    code, out, err = run("inspect", path)
    assert (code, err) == (0, "")
    nonzero = int(torch.count_nonzero(tied["c"].weight))
    for text in (
        "a.weight",
        "40×40",
        "F32",
        "own",
        "6,400",
        "same as a.weight",
        f"sparse, {nonzero} non-zero",
    ):
        assert text in out
    assert "tie: a.weight = b.weight" in out
    assert "4,880 numbers" in out
    assert "of 19,520: ratio" in out
    assert f"checksums: {path.stat().st_size:,} bytes" in out


def test_json(run, path):
    content = json.loads(run("inspect", path, "--json")[1])
    tensors = {tensor.pop("name"): tensor for tensor in content["tensors"]}
    assert tensors["b.weight"] == {
        "shape": [40, 40],
        "dtype": "F32",
        "stored": "same as a.weight",
        "bytes": 0,
    }
    assert content["ties"] == [{"names": ["a.weight", "b.weight"]}]
    totals = content["totals"]
    assert totals["plain_bytes"] == 19_520
    assert totals["file_bytes"] == path.stat().st_size
    assert totals["stored_bytes"] == sum(tensor["bytes"] for tensor in tensors.values())
    assert totals["ratio"] == pytest.approx(19_520 / totals["stored_bytes"])


def test_rows_and_ties(run, tmp_path):
    a = torch.randn(50, 40)
    b = a.clone()
    b[3] = 0.0
    write(pack({"a": a, "b": b, "c": a.clone()}, [{"names": ["a", "c"]}]), tmp_path / "w")
    _, out, _ = run("inspect", tmp_path / "w")
    assert "49 of 50 rows of a" in out
    assert "tie: a = c" in out


def test_names_cannot_command_the_terminal(run, tmp_path):
    write(
        pack({"a\x1b[31m[bold]": torch.ones(3)}, [{"names": ["a\x1b[31m[bold]"]}]), tmp_path / "w"
    )
    _, out, _ = run("inspect", tmp_path / "w")
    assert "\x1b" not in out
    assert r"a\x1b[31m[bold]" in out


@pytest.mark.parametrize("where", [b"nonzero", b"data_offsets"])
def test_a_damaged_file(refused, path, where):
    content = path.read_bytes()
    path.write_bytes(content.replace(where, where[::-1], 1))
    assert "damaged" in refused("inspect", path)


def test_a_damaged_number(refused, path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "damaged" in refused("inspect", path)


def test_a_file_by_another_program(refused, tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "w")
    assert "has no manifest" in refused("inspect", tmp_path / "w")


def test_a_missing_file(refused, tmp_path):
    assert "No such file or directory" in refused("inspect", tmp_path / "gone")
