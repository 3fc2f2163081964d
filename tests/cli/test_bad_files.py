"""Whatever a file is, every command says in one line what is wrong, and exits with 2."""

from __future__ import annotations

import json
import os
import pickle
import random
import socket
import struct
import sys
import time
import zipfile
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_share.compact_files import save_compact
from lit_share.lab.cli import main

from ..compact_files._hostile import MUTATIONS

COMMANDS = {
    "plan": lambda path, _: ["plan", path, "a.*", "b.*"],
    "inspect": lambda path, _: ["inspect", path],
    "inspect --json": lambda path, _: ["inspect", path, "--json"],
    "compact": lambda path, folder: ["compact", path, f"{folder}/out"],
    "align": lambda path, folder: [
        "align", path, path, "--model", "torch.nn:Identity", "--inputs", "2x3",
        "--output", f"{folder}/out",
    ],
    "align --inputs": lambda path, folder: [
        "align", f"{folder}/right", f"{folder}/right", "--model", "torch.nn:Identity",
        "--inputs", path, "--output", f"{folder}/out",
    ],
}  # fmt: skip


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file ran')",)


def saved(content):
    return lambda path: torch.save(content, path)


def wrote(content):
    return lambda path: path.write_bytes(content)


def zipped(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


def listening(path):
    # The name of a socket is short.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def cut(path):
    save_compact(nn.Linear(30, 20), path)
    os.truncate(path, path.stat().st_size - 3)


HEADER = b'{"a":' + b"[" * 100_000
BAD = {
    "missing": lambda path: None,
    "empty": wrote(b""),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "socket": listening,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "text": wrote(b"weights"),
    "zeros": wrote(bytes(5000)),
    "all bits": wrote(b"\xff" * 5000),
    "zip": zipped,
    "half a zip": wrote(b"PK\x03\x04 a zip"),
    "cut": cut,
    "deep header": wrote(struct.pack("<Q", len(HEADER)) + HEADER),
    "long header": wrote(struct.pack("<Q", 2**40) + b"{"),
    "pickle": wrote(pickle.dumps({"a": 1})),
    "deep pickle": wrote(b"\x80\x02" + b"(" * 100_000),
    "code": lambda path: torch.save({"state_dict": {"a": Evil()}}, path),
    "number": saved(3),
    "list": saved([torch.ones(3)]),
    "text in a state dict": saved({"state_dict": {"a.weight": "text"}}),
    "numbers as names": saved({1: torch.ones(3), "1": torch.zeros(3)}),
    "sparse": saved({"a.weight": torch.ones(2, 2).to_sparse()}),
    "control characters": saved({"a\x1b[31m\nb": "text"}),
    "surrogates": saved({"a\udcff": torch.ones(2, 3)}),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("bad", BAD)
def test_one_line_and_exit_code_2(tmp_path, capsys, command, bad):
    torch.save({}, tmp_path / "right")
    BAD[bad](tmp_path / "bad")
    with at_once():
        code = main(COMMANDS[command](str(tmp_path / "bad"), tmp_path))
    check_refused(capsys, code)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name", ["\udcff", "größe\x1b[31m", "new\nline", "n" * 5000, "nul\x00", "a/b", "-", ":", ""]
)
def test_names_of_any_letters(tmp_path, capsys, command, name):
    with at_once():
        code = main(COMMANDS[command](f"{tmp_path}/{name}", tmp_path))
    check_refused(capsys, code)


RESULTS = {
    "empty": wrote(b""),
    "text": wrote(b"weights"),
    "list": wrote(b"[]"),
    "not text": wrote(b"\xff\xfe"),
    "brackets": wrote(b"[" * 100_000),
    "long number": wrote(b'{"seed": 1' + b"0" * 10_000 + b"}"),
    "missing fields": wrote(b"{}"),
    "many mistakes": wrote(json.dumps({"overrides": [3] * 10_000}).encode()),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
}


@pytest.mark.parametrize("bad", RESULTS)
def test_compare(tmp_path, capsys, bad):
    (tmp_path / "run").mkdir()
    RESULTS[bad](tmp_path / "run" / "result.json")
    with at_once():
        code = main(["compare", str(tmp_path)])
    check_refused(capsys, code)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("folder", ["missing", "empty", "file", "pipe"])
def test_compare_folders(tmp_path, capsys, folder):
    path = tmp_path / "folder"
    {"missing": BAD["missing"], "empty": BAD["folder"], "file": BAD["text"], "pipe": os.mkfifo}[
        folder
    ](path)
    with at_once():
        check_refused(capsys, main(["compare", str(path)]))


@contextmanager
def at_once():
    """An endless read would take all memory, or forever."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < 5


def check_refused(capsys, code):
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("lit-share: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert "Traceback" not in err
    assert len(err) < 12_000


def check_mutated(tmp_path, capsys, seed, numbers):
    """Return how many commands were refused."""
    net = nn.ModuleDict({"a": nn.Linear(8, 6), "b": nn.Linear(8, 6)})
    net["b"].weight = net["a"].weight
    save_compact(net, tmp_path / "right")
    right, bad, refused = (tmp_path / "right").read_bytes(), tmp_path / "bad", 0
    commands = [name for name in COMMANDS if not name.startswith("align")]
    for number in numbers:
        chance = random.Random(f"{seed} {number}")
        try:
            bad.write_bytes(chance.choice(MUTATIONS)(right, chance))
        except Exception:  # it has no header any more
            continue
        command = chance.choice(commands)
        (tmp_path / "out").unlink(missing_ok=True)
        try:
            with at_once():
                code = main(COMMANDS[command](str(bad), tmp_path))
            if code:
                check_refused(capsys, code)
                refused += 1
            capsys.readouterr()
        except BaseException:
            print(f"seed {seed}, file {number}, {command}")
            raise
    return refused


def test_files_that_were_changed(tmp_path, capsys):
    refused = check_mutated(tmp_path, capsys, 0, range(150))
    assert 50 < refused < 150


@pytest.mark.slow
@pytest.mark.long
def test_very_many_files_that_were_changed(tmp_path, capsys):
    count = int(os.environ.get("LIT_SHARE_FUZZ_COUNT", "100000"))
    begin = time.time()
    refused = check_mutated(tmp_path, capsys, time.time_ns(), range(count))
    with capsys.disabled():
        print(f"\n{count:,} changed files: {refused:,} refused, {time.time() - begin:.0f} s")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", ["plan", "inspect", "inspect --json"])
def test_terminals_of_any_encoding(tmp_path, monkeypatch, encoding, command):
    module = nn.ModuleDict({"größe": nn.Linear(2, 2), "重み": nn.Linear(2, 2)})
    save_compact(module, tmp_path / "file")
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding=encoding))
    arguments = COMMANDS[command](str(tmp_path / "file"), tmp_path)
    if command == "plan":
        arguments[2:] = ["größe.*", "重み.*"]
    assert main(arguments) == 0
    printed = raw.getvalue().decode(encoding)
    assert "größe" in printed or r"gr\xf6\xdfe" in printed or r"gr\u00f6\u00dfe" in printed
