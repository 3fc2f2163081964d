"""The program, which hands over to a subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lit_share.cli import _compact, _inspect, _plan
from lit_share.cli._completion import SHELLS, PrintCompletion
from lit_share.cli._help import Help, examples
from lit_share.text import visible

# Adds the parser of a command, whose default `run` runs it and imports what it needs only then.
Command = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]

COMMANDS: tuple[Command, ...] = (_plan.add_parser, _compact.add_parser, _inspect.add_parser)


def main(arguments: Sequence[str] | None = None, commands: Sequence[Command] = COMMANDS) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program's name; by default what the program was started with.
        commands: The subcommands.

    Returns:
        The exit code: 0, or 2 if the user has to change something; the message is on stderr then.

    Raises:
        SystemExit: With code 2 if the arguments are not understood, with 0 after ``--help``.
    """
    options = make_parser(commands).parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, as `head`, has had enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        print(
            f"lit-share: {visible(' '.join(line.strip() for line in str(error).splitlines()))}",
            file=sys.stderr,
        )
        return 2
    return 0


def make_parser(commands: Sequence[Command] = COMMANDS) -> argparse.ArgumentParser:
    """Make the parser of these subcommands."""
    parser = argparse.ArgumentParser(
        prog="lit-share",
        description="Plan what is tied with what, store models in which numbers are shared, tied or zero in small "
        "files, and compare runs. Each command has examples: lit-share COMMAND --help. Each prints JSON with --json. "
        "Exit codes: 0, or 2 with one line on stderr if there is something to be changed, or 1 for other errors.",
        epilog=examples(
            "lit-share plan last.ckpt 'a.net.*' 'b.net.*'",
            "lit-share compact last.ckpt model.safetensors",
            "lit-share inspect model.safetensors",
            "lit-share compare multirun/2026-01-31",
            "lit-share --print-completion bash > ~/.local/share/bash-completion/completions/lit-share",
        ),
        formatter_class=Help,
    )
    parser.add_argument(
        "--version", action=_PrintVersion, nargs=0, help="print the version and exit"
    )
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print a completion script and exit",
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in commands:
        command(subparsers)
    return parser


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib.metadata import version  # only here: help must be there at once

        print(f"lit-share {version('lit-share')}")
        parser.exit()
