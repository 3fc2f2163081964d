"""Lay help out: wrap paragraphs, and leave examples as they are, to be copied."""

from __future__ import annotations

import argparse

_TITLE = "examples:"


class Help(argparse.HelpFormatter):
    """Wraps text, except the text of `examples`."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_TITLE):
            return text
        return super()._fill_text(text, width, indent)


def examples(*commands: str) -> str:
    """Return the epilog of a command: an example per line, which may end in a shell comment."""
    return "\n  ".join([_TITLE, *commands])
