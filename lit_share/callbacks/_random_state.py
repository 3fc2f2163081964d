"""Leave the random state as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lit_share.lightnings import imported_module


@contextmanager
def same_random_state() -> Iterator[None]:
    """Restore the random state, also after an exception."""
    # Lightning's context manager restores it only if there was none.
    isolated = imported_module("utilities.seed").isolate_rng()
    isolated.__enter__()
    try:
        yield
    finally:
        isolated.__exit__(None, None, None)
