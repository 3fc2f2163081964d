"""The program."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
import torch

import lit_share
from lit_share.cli import SHELLS
from lit_share.compact_files import pack, write
from lit_share.lab.cli import main, make_parser

COMMANDS = ("plan", "align", "compact", "inspect", "compare")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_teaches_by_examples_that_are_understood(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*([command] if command else []), "--help"])
    assert exit_.value.code == 0
    _, examples = capsys.readouterr().out.split("\nexamples:\n")
    parser = make_parser()
    for line in examples.splitlines():
        program, *arguments = shlex.split(re.split(r" \| | > ", line)[0], comments=True)
        assert program == "lit-share"
        if arguments[0] != "--print-completion":
            assert parser.parse_args(arguments).run
        assert command is None or arguments[0] == command
    assert len(examples.splitlines()) >= 2


def test_every_command_prints_json():
    needed = {"compact": ["y"], "align": ["y", "--model", "m:Net", "--output", "z"]}
    for command in COMMANDS:
        assert make_parser().parse_args([command, "x", *needed.get(command, ()), "--json"]).json


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"lit-share {lit_share.__version__}\n"
    assert lit_share.__version__ == importlib.metadata.version("lit-share")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--print-completion", shell])
    assert exit_.value.code == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, "baseline", "exclude"))


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_in_bash(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "last.ckpt").touch()
    program = """
        source ./script
        complete_at() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            $function
            echo "${COMPREPLY[@]}"
        }
        function=$(complete -p lit-share | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        complete_at lit-share co
        complete_at lit-share plan la
        complete_at lit-share compare x --ba
    """
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["compact", "compare"],
        ["last.ckpt"],
        ["--baseline"],
    ]


def test_other_errors_have_code_1(tmp_path):
    """A fault of the library is no fault of the user's: it has a stack trace."""
    code = """
        import lit_share.cli._inspect
        from lit_share.lab.cli import main
        lit_share.cli._inspect._content = None
        main(["inspect", "w"])
    """
    write(pack({"a": torch.ones(1)}), tmp_path / "w")
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["plant"], ["plan"], ["compact", "only-one"], ["inspect"]]
)
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: lit-share" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = """
        import sys
        from lit_share.lab.cli import main
        try:
            main(["compact", "--help"])
        except SystemExit:
            print("MODULES", *sys.modules)
    """
    run = subprocess.run(
        [sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True
    )
    modules = set(run.stdout.split("MODULES")[1].split())
    assert modules.isdisjoint(
        {"torch", "numpy", "lightning", "rich", "pydantic", "safetensors", "shtab", "hydra"}
    )


def test_a_reader_that_has_had_enough(tmp_path):
    """As `lit-share inspect FILE | head -1`, of more than a pipe holds."""
    write(pack({f"{'long' * 20}{i}": torch.ones(1) for i in range(1000)}), tmp_path / "w")
    command = [sys.executable, "-m", "lit_share.lab.cli", "inspect", str(tmp_path / "w"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"{\n"
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait() == 0
