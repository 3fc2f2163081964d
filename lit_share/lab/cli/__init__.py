"""The command line `lit-share`: the subcommands of `lit_share.cli`, and `compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_share import cli
from lit_share.lab.cli import _compare

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = (*cli.COMMANDS, _compare.add_parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lit-share` with all subcommands; see `lit_share.cli.main`."""
    return cli.main(arguments, COMMANDS)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all subcommands."""
    return cli.make_parser(COMMANDS)
