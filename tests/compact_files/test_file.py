"""Files are written completely or not at all, and damaged ones are not read."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_share.compact_files import CompactFileError, _file, pack, read, unpack, write

from ._zoo import assert_same_bits, forge, random, read_raw, write_raw


def small():
    """A file of a few kilobytes with all ways to be stored."""
    a = random(12, 40)
    sparse = torch.zeros(16, 48)
    sparse[3, 4], sparse[5, 6] = -0.0, 7.0
    rows = a.flip(0)
    rows[1] = 3.0
    return {"a": a, "same": a.T, "sparse": sparse, "rows": rows, "scalar": torch.tensor(3)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    write(pack(small(), [{"names": ["a", "same.T"]}]), path)
    return path


def message(path):
    with pytest.raises(CompactFileError) as error:
        unpack(read(path))
    assert str(error.value).startswith(repr(str(path)))
    return str(error.value)


def test_round_trip(path):
    packed = read(path)
    assert {stored.kind for stored in packed.manifest.tensors.values()} == {
        "own",
        "same",
        "sparse",
        "rows",
    }
    assert_same_bits(unpack(packed), small())


def test_bytes_are_those_of_the_data_section(path):
    assert read(path).nbytes == pack(small()).nbytes == len(read_raw(path)[1])


def test_other_programs_read_what_is_stored_as_it_is(path):
    assert_same_bits({"a": load_file(path)["a"]}, {"a": small()["a"]})


def test_tensors_on_one_memory(tmp_path):
    a = random(6, 4)
    tensors = {"a": a, "b": a.view(4, 6), "c": a.view(torch.int32), "d": a[:3]}
    write(pack(tensors), tmp_path / "x")
    assert_same_bits(unpack(read(tmp_path / "x")), tensors)


def test_no_tensors_at_all(tmp_path):
    write(pack({}), tmp_path / "x")
    assert unpack(read(tmp_path / "x")) == {}


def test_one_bit_more_or_less_is_noticed(path):
    content = path.read_bytes()
    differently = path.with_name("flipped")
    noticed = 0
    for i in range(len(content)):
        for flip in (1 << (i % 8), 0xFF):
            differently.write_bytes(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])
            try:
                tensors = unpack(read(differently))
            except CompactFileError:
                noticed += 1
            else:
                assert_same_bits(tensors, small())
    assert noticed > 1.9 * len(content)


def test_truncated(path):
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert "is not a safetensors file, or is damaged" in message(path)


def test_something_appended(path):
    path.write_bytes(path.read_bytes() + b"x")
    assert "is not a safetensors file, or is damaged" in message(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a zip", b"\x80\x02}q\x00.", b"\xff" * 100, b"\x10" + b"[" * 99]
)
def test_not_safetensors(path, content):
    path.write_bytes(content)
    assert "is not a safetensors file, or is damaged" in message(path)


def test_deeply_nested_header(path):
    text = b'{"a":' + b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert "is not a safetensors file, or is damaged" in message(path)


def test_by_another_program(path):
    save_file({"a": torch.ones(3)}, path)
    assert (
        "has no manifest, so it was not written by save_compact: read it with "
        "safetensors.torch.load_file" in message(path)
    )


def test_manifest_of_another_file(path):
    header, data = read_raw(path)
    header["__metadata__"]["lit_share"] = header["__metadata__"]["lit_share"].replace(
        "sparse", "spars_"
    )
    write_raw(path, header, data)
    assert "its manifest has another checksum than when it was written" in message(path)


def test_another_value_in_an_entry(path):
    header, data = read_raw(path)
    write_raw(path, header, bytes([data[0] ^ 1]) + data[1:])
    assert "has another checksum than when it was written" in message(path)


@pytest.mark.parametrize(
    "change", [lambda entries: entries.pop("a"), lambda entries: entries.update(b=torch.ones(2))]
)
def test_an_entry_too_few_or_too_many(path, change):
    entries, metadata = load_file(path), read_raw(path)[0]["__metadata__"]
    change(entries)
    save_file(entries, path, metadata)
    assert "is not what its manifest says" in message(path)


def test_checksums_for_other_entries(path):
    forge(path, lambda manifest: manifest["checksums"].pop("a") and None)
    assert "its manifest has not one checksum for each entry" in message(path)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read(tmp_path / "gone")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_reading_does_not_unpickle(path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load"):
        monkeypatch.setattr(name, refuse)
    assert_same_bits(unpack(read(path)), small())
    for module in (
        m for name, m in sys.modules.items() if name.startswith("lit_share.compact_files")
    ):
        assert "pickle" not in vars(module)


def unchanged_after(path, write_again):
    before = path.read_bytes()
    write_again()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write(path, monkeypatch):
    def interrupt(_, temporary, __):
        temporary.write_bytes(b"half of it")
        raise KeyboardInterrupt

    def write_again():
        monkeypatch.setattr(_file, "save_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(pack({"a": torch.ones(3)}), path)

    unchanged_after(path, write_again)


def test_a_full_disk(path):
    def write_again():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(OSError, match=r"cannot write '.*model.safetensors'") as error:
                write(pack({"a": random(100, 1000)}), path)
            assert error.value.errno in (None, errno.EFBIG)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    unchanged_after(path, write_again)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*gone"):
        write(pack({"a": torch.ones(3)}), tmp_path / "gone" / "x")


def test_others_may_read_it_as_they_may_others(path, tmp_path):
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    path.chmod(0o600)
    write(pack({"a": torch.ones(3)}), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_onto_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*folder': Is a directory"):
        write(pack({"a": torch.ones(3)}), tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_through_a_link(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    write(pack({"a": torch.ones(3)}), link)
    assert link.is_symlink()
    assert unpack(read(path)).keys() == {"a"}


def test_the_metadata_says_pytorch(path):
    metadata = read_raw(path)[0]["__metadata__"]
    assert metadata["format"] == "pt"
    assert json.loads(metadata["lit_share"])["version"] == 1


def test_the_same_content_in_another_process(path):
    """Nothing but the order of safetensors' metadata depends on Python's hash seed."""
    code = f"""
import torch
from lit_share.compact_files import pack, read, unpack, write
again = pack(unpack(read({str(path)!r})), [{{"names": ["a", "same.T"]}}])
write(again, {str(path.with_name("again"))!r})
"""
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert read_raw(path.with_name("again")) == read_raw(path)
