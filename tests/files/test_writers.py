"""All files of the package are written beside their place: found by reading the code, and tried."""

from __future__ import annotations

import ast
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import lit_share as ls
from lit_share.files import _beside, beside, write_text

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "lit_share").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]

# Methods and functions that write to the file which their first argument, or their object, names.
WRITERS = {
    "write_bytes", "write_text", "touch", "savefig", "save_file", "to_csv", "write_image",
    "write_html", "copyfile", "copy2", "copytree", "savetxt", "tofile", "dump",
    "symlink_to", "hardlink_to", "to_parquet", "to_pickle", "save_model", "savez", "export_svg",
}  # fmt: skip
# `save` of these; the method of other objects may have this name.
SAVERS = {"torch", "np", "numpy", "OmegaConf", "safetensors"}
# Where these write to no file, or a file that is not the one that the user asked for.
ALLOWED = {
    ("lit_share/files/_beside.py", "touch"),  # the unfinished file
    ("lit_share/callbacks/_path_walk.py", "open"),  # an address, which has nothing beside it
    ("lit_share/paired/_hyperparameters.py", "save"),  # to a buffer
    ("lit_share/compact_files/_file.py", "dump"),  # of a manifest, to a text
    ("lit_share/compact_files/_sizes.py", "dump"),
    ("lit_share/lab/report/_print.py", "export_svg"),  # to a text
}


def called(node):
    """The name of what a call calls, and of the object that it is a method of."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr, getattr(function.value, "id", "")
    return getattr(function, "id", ""), ""


def opens_to_write(node):
    name, _ = called(node)
    texts = [a.value for a in [*node.args, *(k.value for k in node.keywords)]
             if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
    return name == "open" and any(set(text) & set("wax+") and len(text) < 4 for text in texts)


def writes(tree):
    """The calls of a module that write files, without those within ``with beside(...) as name``."""
    safe = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            items = [item for item in node.items if isinstance(item.context_expr, ast.Call)]
            given = [item for item in items if called(item.context_expr)[0] == "beside"]
            names = {getattr(item.optional_vars, "id", "") for item in given}
            for inner in ast.walk(node):
                used = {n.id for n in ast.walk(inner) if isinstance(n, ast.Name)}
                if isinstance(inner, ast.Call) and used & names:
                    safe.add(inner)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or node in safe:
            continue
        name, owner = called(node)
        # The function of this package, which has no object before its name.
        if name == "write_text" and not isinstance(node.func, ast.Attribute):
            continue
        if name in WRITERS or (name == "save" and owner in SAVERS) or opens_to_write(node):
            yield name


def test_every_writer_writes_beside():
    found = set()
    for path in SOURCES:
        for name in writes(ast.parse(path.read_text(encoding="utf-8"))):
            found.add((path.relative_to(ROOT).as_posix(), name))
    unknown = {(path, name) for path, name in found - ALLOWED if name != "to_csv"}
    assert not unknown, "write with lit_share.files.beside or write_text"
    assert found >= ALLOWED, "leave out what is not there any more"


@pytest.mark.parametrize(
    "code",
    [
        'Path("x").write_text("")',
        'open("x", "w")',
        'Path("x").open(mode="wb")',
        'torch.save({}, "x")',
        "figure.savefig(path)",
        'with beside("x") as y:\n    torch.save({}, "x")',
    ],
)
def test_the_test_sees_writers(code):
    assert [*writes(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        'write_text("x", "")',
        'open("file")',
        'Path("file").open("rb")',
        'with beside("x") as y:\n    torch.save({}, y)',
        'with beside("x") as y, y.open("w") as file:\n    file.write("")',
    ],
)
def test_the_test_lets_others_be(code):
    assert [*writes(ast.parse(code))] == []


def comparison(folder):
    from lit_share.lab.report import compare
    from lit_share.lab.results import read_results

    for seed, strategy in enumerate(["none", "soft_tie"]):
        run = folder.parent / "runs" / str(seed)
        run.mkdir(parents=True, exist_ok=True)
        content = {
            "schema": 1, "status": "finished", "strategy": strategy, "seed": 0, "mode": "max",
            "objective": "b/val/acc", "validation": {"b/val/acc": 0.5},
            "test": {"b/test/acc": 0.5 + seed / 10},
        }  # fmt: skip
        (run / "result.json").write_text(json.dumps(content))
    return compare(read_results([folder.parent / "runs"]))


def svg(folder):
    from lit_share.lab.report import print_comparison

    comparison(folder)
    print_comparison([folder.parent / "runs"], svg=folder / "table.svg", quiet=True)


def report(folder):
    from lit_share.lab.report import write_report

    write_report(comparison(folder), folder)


def result(folder):
    from lit_share.lab.results import read_results

    comparison(folder)
    (found, *_) = read_results([folder.parent / "runs"])
    replace(found, path=folder / "result.json").write()


def align(folder):
    from lit_share.cli import main

    weights = folder.parent / "weights"
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).state_dict(), weights)
    # The command finds modules in the current folder.
    code = "from torch import nn\ndef net(): return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))"
    Path("net_of_writers.py").write_text(code)
    files = [weights, weights, "--model", "net_of_writers:net", "--inputs", "2x3"]
    arguments = ["align", *files, "--output", folder / "out", "--force"]
    if main([str(argument) for argument in arguments]):
        raise OSError("as the command says")


def checkpoint(folder):
    from lit_share.lab.app._checkpoints import WholeCheckpoints

    WholeCheckpoints().save_checkpoint({"state_dict": {}}, folder / "last.ckpt")


WRITE = {
    "report": report,
    "results.csv": lambda folder: comparison(folder).to_csv(folder / "results.csv"),
    "svg": svg,
    "result.json": result,
    "compact file": lambda folder: ls.save_compact(nn.Linear(3, 2), folder / "file"),
    "checkpoint": checkpoint,
    "align": align,
    "text": lambda folder: write_text(folder / "text", OmegaConf.to_yaml({"a": 1})),
}


@pytest.mark.parametrize("when", ["written", "put in place"])
@pytest.mark.parametrize("writer", WRITE)
def test_a_disk_that_is_full(tmp_path, monkeypatch, writer, when):
    """Files that were there are what they were, and no others remain."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    WRITE[writer](folder)
    for path in folder.iterdir():
        path.write_bytes(b"before")
    before = sorted(path.name for path in folder.iterdir())
    assert before
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full(type(tmp_path)):
        def touch(self, *arguments, **options):
            super().touch(*arguments, **options)
            if when == "written":
                raise full

        def replace(self, target):
            raise full

    # The other files of the folder are of other paths.
    monkeypatch.setattr(_beside, "Path", Full)
    with pytest.raises(OSError, match=r"No space left|as the command says"):
        WRITE[writer](folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert {path.read_bytes() for path in folder.iterdir()} == {b"before"}


def test_a_report_is_written_as_a_whole(tmp_path, monkeypatch):
    """The last of its files cannot be written: the first two are what they were."""
    folder = tmp_path / "folder"
    report(folder)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(files) == 3
    with monkeypatch.context() as patch:
        patch.setattr("lit_share.lab.report._write.as_json", lambda *_: "\udcff")
        with pytest.raises(ValueError, match="surrogates not allowed"):
            report(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


@pytest.mark.slow
@pytest.mark.parametrize("text", ["x=\udcff", "größe", "x\x1b[31m", "\u2028", "=cmd()", "\r\n"])
def test_reports_of_any_letters(tmp_path, text):
    from lit_share.lab.report import compare, write_report
    from lit_share.lab.results import read_results

    folder = tmp_path / "folder"
    comparison(folder)
    file = tmp_path / "runs" / "1" / "result.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "overrides": [f"data.x={text}"], "strategy": text}))
    for path in write_report(compare(read_results([tmp_path / "runs"])), folder):
        assert len(path.read_text(encoding="utf-8")) > 100


def test_a_writer_within_another_writes_both(tmp_path):
    with beside(tmp_path / "file") as unfinished:
        write_text(unfinished, "text")
    assert (tmp_path / "file").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
