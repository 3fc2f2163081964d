"""Errors of users are told in a line; tracebacks are for the others."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import CompactHydraException, InstantiationException

# Where an exception passes through nothing else, it is about what these were given.
_KNOWN = {
    "__main__",
    "__mp_main__",
    "lit_share",
    "hydra",
    "omegaconf",
    "lightning",
    "torch",
    "contextlib",
    "functools",
}


class UserError(CompactHydraException):
    """An error of which Hydra prints the message alone."""


@contextmanager
def user_errors_in_one_line() -> Iterator[None]:
    """Make an error that says what is to be changed one of which Hydra prints the message alone.

    These are those that lit_share and Lightning raise for what they were given. Others, and those in the user's own
    code, keep their traceback, as all do with ``HYDRA_FULL_ERROR=1``.

    Raises:
        UserError: In place of such an error.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not _is_for_users(_unwrapped(error)):
            raise
        key = (
            re.search(r"\nfull_key: (.+)", str(error))
            if isinstance(error, InstantiationException)
            else None
        )
        raise UserError(f"{key[1]}: {_unwrapped(error)}" if key else str(error)) from error


def one_line(error: BaseException) -> str:
    """An exception as the last line of its traceback shows it; what Hydra wraps is unwrapped."""
    return "".join(traceback.format_exception_only(_unwrapped(error))).strip()


def _unwrapped(error: BaseException) -> BaseException:
    wraps = isinstance(error, InstantiationException) and error.__cause__ is not None
    return error.__cause__ if wraps else error  # type: ignore[return-value]


def _is_for_users(error: BaseException) -> bool:
    # By its name, as Lightning is not imported only to know its exceptions.
    is_said = (
        isinstance(error, ValueError | ImportError)
        or type(error).__name__ == "MisconfigurationException"
    )
    frames = [
        str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    packages = [name.partition(".")[0] for name in frames]
    return is_said and {*packages} <= _KNOWN and packages[-1] in ("lit_share", "lightning")
