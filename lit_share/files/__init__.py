"""Files that are complete or absent, or have an end; folders in which one process works."""

from lit_share.files._beside import beside, remove_unfinished, write_text
from lit_share.files._lock import LOCK_FILE, InUseError, locked
from lit_share.files._regular import open_regular

__all__ = [
    "LOCK_FILE",
    "InUseError",
    "beside",
    "locked",
    "open_regular",
    "remove_unfinished",
    "write_text",
]
