"""Words of messages: choices, counts, suggestions, sizes and printable names."""

from lit_share.text._choice import check_choice
from lit_share.text._counted import counted
from lit_share.text._described import described
from lit_share.text._encodable import encodable, print_any_letter
from lit_share.text._size import size
from lit_share.text._suggest import suggest
from lit_share.text._visible import visible

__all__ = [
    "check_choice",
    "counted",
    "described",
    "encodable",
    "print_any_letter",
    "size",
    "suggest",
    "visible",
]
