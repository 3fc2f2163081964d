"""The program, which hands over to a subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lit_share.cli import _compact, _compare, _inspect
from lit_share.text import visible

# A subcommand is a module with `add_parser`; what it needs it imports when it runs, so that `--help` is there at once.
_COMMANDS = (_compact, _inspect, _compare)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program's name; by default what the program was started with.

    Returns:
        The exit code: 0, or 2 if the user has to change something; the message is on stderr then.

    Raises:
        SystemExit: With code 2 if the arguments are not understood, with 0 after ``--help``.
    """
    parser = argparse.ArgumentParser(
        prog="lit-share",
        description="Compare runs, and store models in which numbers are shared, tied or zero in small files.",
        epilog="example: lit-share compact last.ckpt model.safetensors && lit-share inspect model.safetensors",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, as `head`, has had enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError) as error:
        print(f"lit-share: {visible(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return 2
    return 0
