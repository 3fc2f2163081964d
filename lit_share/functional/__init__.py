"""The algebra of tying: tensors in, tensors out.

.. code-block:: text

    penalty = norm ∘ groups ∘ (weights − center)
    strength: 0 → soft → exact → hard (one copy)

`Penalty` composes a norm, a grouping and a center, each a row of the table in the file of its name.

Smooth penalties (``norm="squared"``) are added to training as a gradient. The others take a
proximal step of size learning rate × strength, which makes groups *exactly* equal to their center.
Hard sharing, the limit of infinite strength, stores one copy: see `lit_share.sharing.share`.
"""

from lit_share.functional._batch import (
    TieBatch,
    accumulate_,
    add_gradient_,
    empty_group_mask,
    prox_,
    write_,
)
from lit_share.functional._centers import CENTERS, Center, mean
from lit_share.functional._compare import (
    Comparison,
    compare_members,
    compare_numbers,
    count_values,
)
from lit_share.functional._curvature import curvature
from lit_share.functional._equal import first_equal
from lit_share.functional._groups import GROUPS, Groups, Partition
from lit_share.functional._norms import NORMS, Norm
from lit_share.functional._owl import owl_weights, prox_owl
from lit_share.functional._owl_weights import OwlWeights
from lit_share.functional._penalty import Penalty, either
from lit_share.functional._precision import weighted_mean
from lit_share.functional._tie_tensors import Ranks, Shard, TieTensors

__all__ = [
    "CENTERS",
    "GROUPS",
    "NORMS",
    "Center",
    "Comparison",
    "Groups",
    "Norm",
    "OwlWeights",
    "Partition",
    "Penalty",
    "Ranks",
    "Shard",
    "TieBatch",
    "TieTensors",
    "accumulate_",
    "add_gradient_",
    "compare_members",
    "compare_numbers",
    "count_values",
    "curvature",
    "either",
    "empty_group_mask",
    "first_equal",
    "mean",
    "owl_weights",
    "prox_",
    "prox_owl",
    "weighted_mean",
    "write_",
]
