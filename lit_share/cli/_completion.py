"""Completion of the command line by the shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")

_FILES = {"CHECKPOINT", "FILE", "OUTPUT", "SOURCE"}  # by the metavars of the arguments
_DIRECTORIES = {"DIR"}


class PrintCompletion(argparse.Action):
    """``--print-completion SHELL`` prints a script for the shell, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **_: Any) -> None:
        """Print it."""
        import shtab  # only here: help must be there at once

        for action in _actions(parser):
            if action.metavar in _FILES | _DIRECTORIES:
                action.complete = shtab.FILE if action.metavar in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
        print(shtab.complete(parser, arguments[1]))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
