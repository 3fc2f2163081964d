"""Complete the command line in shells."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")

# The metavars of arguments say what a shell can complete.
_FILES = {"CHECKPOINT", "FILE", "OUTPUT", "SOURCE"}
_DIRECTORIES = {"DIR"}


class PrintCompletion(argparse.Action):
    """``--print-completion SHELL`` prints a script for the shell and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **_: Any) -> None:
        # Other commands, above all --help, need not wait for this import.
        import shtab

        complete = dict.fromkeys(_FILES, shtab.FILE) | dict.fromkeys(_DIRECTORIES, shtab.DIRECTORY)
        for action in _actions(parser):
            if isinstance(action.metavar, str) and action.metavar in complete:
                action.complete = complete[action.metavar]  # type: ignore[attr-defined]
        print(shtab.complete(parser, arguments[1]))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
