"""Which tensors of a module are tied, and how they are read and written."""

from lit_share.ties._arguments import as_ties, check_ties, find_ties
from lit_share.ties._clusters import (
    ClusteredTie,
    ClusterReport,
    TensorValues,
    cluster_labels,
    cluster_ties,
)
from lit_share.ties._distributed import is_dtensor, is_fsdp_module
from lit_share.ties._error import TieError
from lit_share.ties._find_clusters import check_not_meta, clusters
from lit_share.ties._layers import (
    HasClusters,
    HasPositions,
    SharesWith,
    equal_slice,
    mark_positions,
    position_count,
)
from lit_share.ties._names import by_unwrapped_name, shortened, unwrapped, unwrapped_name
from lit_share.ties._plan import Plan, PlannedTie
from lit_share.ties._refs import BufferRef, ParameterRef, buffer_refs, parameter_refs
from lit_share.ties._same_start import same_start
from lit_share.ties._shards import (
    full_on_host,
    full_tensor,
    like_parameter,
    local_slices,
    reshard,
    sharded_modules,
    sum_over_shards,
)
from lit_share.ties._suffix import TRANSPOSE, Suffix
from lit_share.ties._tie import Member, Tie, distinctly_named, map_ties
from lit_share.ties._ties import Ties
from lit_share.ties._transposed import Source, can_hold_transposed, make_transposed
from lit_share.ties._unaligned import (
    find_unaligned,
    find_unlike_transposes,
    unaligned_remark,
    unlike_remark,
)
from lit_share.ties._view import TieView, TieViews, names_of

__all__ = [
    "TRANSPOSE",
    "BufferRef",
    "ClusterReport",
    "ClusteredTie",
    "HasClusters",
    "HasPositions",
    "Member",
    "ParameterRef",
    "Plan",
    "PlannedTie",
    "SharesWith",
    "Source",
    "Suffix",
    "TensorValues",
    "Tie",
    "TieError",
    "TieView",
    "TieViews",
    "Ties",
    "as_ties",
    "buffer_refs",
    "by_unwrapped_name",
    "can_hold_transposed",
    "check_not_meta",
    "check_ties",
    "cluster_labels",
    "cluster_ties",
    "clusters",
    "distinctly_named",
    "equal_slice",
    "find_ties",
    "find_unaligned",
    "find_unlike_transposes",
    "full_on_host",
    "full_tensor",
    "is_dtensor",
    "is_fsdp_module",
    "like_parameter",
    "local_slices",
    "make_transposed",
    "map_ties",
    "mark_positions",
    "names_of",
    "parameter_refs",
    "position_count",
    "reshard",
    "same_start",
    "sharded_modules",
    "shortened",
    "sum_over_shards",
    "unaligned_remark",
    "unlike_remark",
    "unwrapped",
    "unwrapped_name",
]
