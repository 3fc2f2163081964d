"""Files that are complete or absent when they are written, and have an end when they are read."""

from lit_share.files._beside import beside, remove_unfinished, write_text
from lit_share.files._regular import open_regular

__all__ = ["beside", "open_regular", "remove_unfinished", "write_text"]
