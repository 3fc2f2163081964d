"""User errors are printed as one line; bugs keep their traceback."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import CompactHydraException, InstantiationException

# An exception whose frames are all in these packages is about what the user gave them; another
# frame is the user's own code, which needs its traceback.
_KNOWN = {
    "__main__",
    "__mp_main__",
    "lit_share",
    "hydra",
    "omegaconf",
    "lightning",
    "pytorch_lightning",
    "lightning_fabric",
    "torch",
    "contextlib",
    "functools",
}
# The packages whose errors about arguments are worded for users.
_CHECKING = {"lit_share", "lightning", "pytorch_lightning", "lightning_fabric"}


class UserError(CompactHydraException):
    """An error whose message Hydra prints without a traceback."""


@contextmanager
def user_errors_in_one_line() -> Iterator[None]:
    """Re-raise user errors so that Hydra prints only the message.

    User errors are those that lit_share and Lightning raise about their arguments. Other errors,
    and those in the user's own code, keep their traceback, as all do with ``HYDRA_FULL_ERROR=1``.

    Raises:
        UserError: In place of a user error.
    """
    try:
        yield
    except Exception as error:
        cause = _unwrapped(error)
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not _is_for_users(cause):
            raise
        message = str(error)
        if cause is not error and (key := re.search(r"\nfull_key: (.+)", message)):
            message = f"{key[1]}: {cause}"
        raise UserError(message) from error


def one_line(error: BaseException) -> str:
    """Return the last line of an exception's traceback, without the exception that Hydra adds."""
    return "".join(traceback.format_exception_only(_unwrapped(error))).strip()


def _unwrapped(error: BaseException) -> BaseException:
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return error.__cause__
    return error


def _is_for_users(error: BaseException) -> bool:
    # Lightning's exception is recognised by its name, so that `train.py --help` need not import it.
    is_about_arguments = (
        isinstance(error, ValueError | ImportError)
        or type(error).__name__ == "MisconfigurationException"
    )
    packages = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        packages.append(module.partition(".")[0])
    return is_about_arguments and {*packages} <= _KNOWN and packages[-1] in _CHECKING
