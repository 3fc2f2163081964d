"""How help is laid out: paragraphs are wrapped, examples are left as they are, to be copied."""

from __future__ import annotations

import argparse

_TITLE = "examples:"


class Help(argparse.HelpFormatter):
    """Wraps text, except that of `examples`."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_TITLE) else super()._fill_text(text, width, indent)


def examples(*commands: str) -> str:
    """The epilog of a command: each example on a line, with a comment after it if it has two spaces and a #."""
    return "\n  ".join([_TITLE, *commands])
