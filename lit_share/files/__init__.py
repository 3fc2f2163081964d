"""Files that are complete or absent, and folders in which one process works."""

from lit_share.files._beside import beside, remove_unfinished, write_text
from lit_share.files._lock import LOCK_FILE, InUseError, locked

__all__ = ["LOCK_FILE", "InUseError", "beside", "locked", "remove_unfinished", "write_text"]
