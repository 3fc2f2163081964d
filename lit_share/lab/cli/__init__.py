"""The command line `lit-share`: the commands of `lit_share.cli`, and `compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_share import cli
from lit_share.lab.cli import _compare

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = (*cli.COMMANDS, _compare.add_parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lit-share` with all of its commands; see `lit_share.cli.main`."""
    return cli.main(arguments, COMMANDS)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    return cli.make_parser(COMMANDS)
