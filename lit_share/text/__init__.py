"""Names that users and files give, as they may be printed."""

from lit_share.text._visible import visible

__all__ = ["visible"]
