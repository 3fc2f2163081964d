"""Codebook layers, in which inputs share rows of weights, and the clustering that makes them."""

from lit_share.codebooks._cluster_rows import cluster_rows
from lit_share.codebooks._compact_layers import compact_layers
from lit_share.codebooks._layers import (
    CODEBOOKS,
    CodebookConv2d,
    CodebookLayer,
    CodebookLinear,
    dense_weight,
)
from lit_share.codebooks._place import place_codebook
from lit_share.codebooks._replaceable import row_weights
from lit_share.codebooks._tie_rows import (
    LayerRows,
    RowReport,
    codebook_layers,
    densify,
    tie_rows,
)

__all__ = [
    "CODEBOOKS",
    "CodebookConv2d",
    "CodebookLayer",
    "CodebookLinear",
    "LayerRows",
    "RowReport",
    "cluster_rows",
    "codebook_layers",
    "compact_layers",
    "dense_weight",
    "densify",
    "place_codebook",
    "row_weights",
    "tie_rows",
]
