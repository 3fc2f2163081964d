"""Names and numbers as they may be printed, and what names may have meant."""

from lit_share.text._size import size
from lit_share.text._suggest import suggest
from lit_share.text._visible import visible

__all__ = ["size", "suggest", "visible"]
