"""The program."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from lit_share.cli import main
from lit_share.sharing.compact import pack, write


@pytest.mark.parametrize("arguments", [["--help"], ["compact", "--help"], ["inspect", "--help"]])
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert "example: lit-share " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["plan"], ["compact", "only-one"], ["inspect"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: lit-share" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = """
        import sys
        from lit_share.cli import main
        try:
            main(["compact", "--help"])
        except SystemExit:
            print("MODULES", *sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    modules = set(run.stdout.split("MODULES")[1].split())
    assert modules.isdisjoint({"torch", "numpy", "lightning", "rich", "pydantic", "safetensors"})


def test_a_reader_that_has_had_enough(tmp_path):
    """As `lit-share inspect FILE | head -1`, of more than a pipe holds."""
    write(pack({f"{'long' * 20}{i}": torch.ones(1) for i in range(1000)}), tmp_path / "w")
    command = [sys.executable, "-m", "lit_share.cli", "inspect", str(tmp_path / "w"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"{\n"
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait() == 0
