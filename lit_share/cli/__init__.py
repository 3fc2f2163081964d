"""Subcommands that need no laboratory, one per file; `lit_share.lab.cli` adds the others."""

from lit_share.cli._completion import SHELLS
from lit_share.cli._help import Help, examples
from lit_share.cli._main import COMMANDS, Command, main, make_parser

__all__ = ["COMMANDS", "SHELLS", "Command", "Help", "examples", "main", "make_parser"]
