"""A row of the table of faults: what a user does, when an error says so, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Stage = Literal["at once", "on load", "before training", "in training", "at the end"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Row:
    """One bad input, or one fault of the system.

    Attributes:
        name: Of the test. what: Code, which is run as it stands here; or a command, `python
        train.py ...` or `lit-share ...`; or, where
            ``do`` does it, a description. `DIR` stands for a folder.
        when: The stage in which the error comes. error: The name of the exception's class, or what
        ``do`` returns for it. message: All of the error's text, in which `…` stands for any text.
        before: Prepares the folder. do: Does what ``what`` describes in words, given the folder,
        and returns the kind of error and its text. leaves: The new files, as patterns from the
        folder, that may be there afterwards. changes: Whether the code of ``what`` itself changes
        the weights of `pair`, before the error. slow: Whether it takes more than a few seconds, in
        processes of its own.
    """

    name: str
    what: str
    when: Stage
    error: str
    message: str
    before: Callable[[Path], None] | None = None
    do: Callable[[Path], tuple[str, str]] | None = None
    leaves: tuple[str, ...] = ()
    changes: bool = False
    slow: bool = False

    def matches(self, text: str) -> bool:
        """Whether a text is the message."""
        pattern = ".*".join(map(re.escape, self.message.split("…")))
        return re.fullmatch(pattern, text, re.DOTALL) is not None


def without_colours(text: Any) -> str:
    """A text as a terminal without colours shows it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(text))
