"""Files that are complete or absent."""

from lit_share.files._beside import beside, remove_unfinished, write_text

__all__ = ["beside", "remove_unfinished", "write_text"]
