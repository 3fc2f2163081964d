"""The program, which runs a subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lit_share.cli import _align, _compact, _inspect, _plan
from lit_share.cli._completion import SHELLS, PrintCompletion
from lit_share.cli._help import Help, examples
from lit_share.text import print_any_letter, visible

# A command adds its parser, whose default `run` runs the command and imports its dependencies.
Command = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]

COMMANDS: tuple[Command, ...] = (
    _plan.add_parser,
    _align.add_parser,
    _compact.add_parser,
    _inspect.add_parser,
)


def main(arguments: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program's name; by default ``sys.argv[1:]``.
        commands: The subcommands.

    Returns:
        The exit code: 0, or 2 after an error of the user, with a message on stderr.

    Raises:
        SystemExit: With code 2 if the arguments are invalid, with 0 after ``--help``.
    """
    print_any_letter()
    options = make_parser(commands).parse_args(arguments)
    try:
        options.run(options)
        # Errors of a buffered write would otherwise be raised after this function.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe: flushing at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        message = " ".join(line.strip() for line in str(error).splitlines())
        print(f"lit-share: {visible(message)}", file=sys.stderr)
        return 2
    return 0


def make_parser(commands: Sequence[Command] = COMMANDS) -> argparse.ArgumentParser:
    """Make the parser of these subcommands."""
    parser = argparse.ArgumentParser(
        prog="lit-share",
        description="Plan what is tied with what, align models that were trained apart, store "
        "models in which numbers are shared, tied or zero in small files, and compare runs. Each "
        "command has examples: lit-share COMMAND --help. Each prints JSON with --json. Exit codes: "
        "0; 2, with one line on stderr, if you have to change something; 1 for other errors.",
        epilog=examples(
            "lit-share plan last.ckpt 'a.net.*' 'b.net.*'",
            "lit-share compact last.ckpt model.safetensors",
            "lit-share inspect model.safetensors",
            "lit-share compare multirun/2026-01-31",
            "lit-share --print-completion bash "
            "> ~/.local/share/bash-completion/completions/lit-share",
        ),
        formatter_class=Help,
    )
    version = "print the version and exit"
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help=version)
    script = "print a completion script and exit"
    parser.add_argument("--print-completion", action=PrintCompletion, choices=SHELLS, help=script)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in commands:
        command(subparsers)
    return parser


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        # Other commands, above all --help, need not wait for this import.
        from importlib.metadata import version

        print(f"lit-share {version('lit-share')}")
        parser.exit()
