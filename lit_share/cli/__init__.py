"""The command line `lit-share`: one file per subcommand."""

from lit_share.cli._main import main

__all__ = ["main"]
