"""Layers in which rows are shared, and how they come about."""

from lit_share.sharing.codebook._compact import compact
from lit_share.sharing.codebook._layers import CodebookConv2d, CodebookLinear
from lit_share.sharing.codebook._tie_rows import LayerRows, RowReport, densify, tie_rows

__all__ = [
    "CodebookConv2d",
    "CodebookLinear",
    "LayerRows",
    "RowReport",
    "compact",
    "densify",
    "tie_rows",
]
