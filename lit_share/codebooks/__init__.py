"""Codebook layers, in which inputs share rows of weights, and the clustering that makes them."""

from lit_share.codebooks._cluster_inputs import check_clustering, cluster_inputs
from lit_share.codebooks._cluster_rows import MethodName, cluster_rows
from lit_share.codebooks._compact_layers import compact_layers
from lit_share.codebooks._covariance import Covariance
from lit_share.codebooks._layer_inputs import call_with, covariances
from lit_share.codebooks._layers import (
    CODEBOOKS,
    CodebookConv2d,
    CodebookLayer,
    CodebookLinear,
    dense_weight,
)
from lit_share.codebooks._place import match_codebooks, place_codebook
from lit_share.codebooks._replaceable import row_weights
from lit_share.codebooks._tie_rows import (
    LayerRows,
    RowReport,
    RowsBy,
    codebook_layers,
    densify,
    find_row_layers,
    row_report,
    tie_found,
    tie_rows,
)

__all__ = [
    "CODEBOOKS",
    "CodebookConv2d",
    "CodebookLayer",
    "CodebookLinear",
    "Covariance",
    "LayerRows",
    "MethodName",
    "RowReport",
    "RowsBy",
    "call_with",
    "check_clustering",
    "cluster_inputs",
    "cluster_rows",
    "codebook_layers",
    "compact_layers",
    "covariances",
    "dense_weight",
    "densify",
    "find_row_layers",
    "match_codebooks",
    "place_codebook",
    "row_report",
    "row_weights",
    "tie_found",
    "tie_rows",
]
