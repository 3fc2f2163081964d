"""The algebra of tying: tensors in, tensors out.

Everything here is one line:

.. code-block:: text

    penalty = norm  ∘  groups  ∘  (weights − center)      strength: 0 → soft → exact → hard (one copy)

`Penalty` composes the three; the norms, groupings and centers are tables in files of those names, and a new method
is a new row. With N members W_1 … W_N (one for plain regularisation), the usual names of the field are:

============  =======  ========  ======  =======  ====================================================================
recipe        norm     groups    center  members  penalty, and what it does
============  =======  ========  ======  =======  ====================================================================
l2            squared  element   zero    1        ½ ‖W‖²: small
lasso         l1       element   zero    1        Σ |w|: zero, number by number
group_lasso   l1       input     zero    1        Σ over inputs of ‖W[:, j]‖: zero, input by input
oscar         owl      element   zero    1        Σ w_k |w|_(k): zero, or equal in size
growl         owl      input     zero    1        Σ w_k ‖W[:, j]‖_(k): rows of related inputs become equal in norm
soft_tie      squared  element   mean    ≥ 2      ½ Σ_{i<j} ‖W_i − W_j‖²: close to each other
exact_tie     l1       element   mean    ≥ 2      for a pair Σ |a − b|: equal, number by number
unit_tie      l1       output    mean    ≥ 2      for a pair Σ over outputs of ‖A[u] − B[u]‖: equal, unit by unit
layer_tie     l1       tensor    mean    ≥ 2      for a pair ‖A − B‖: equal, layer by layer
follow        squared  element   first   ≥ 2      ½ Σ ‖W_i − W_1‖², W_1 held constant: close to the first member
l2_sp         squared  element   start   ≥ 1      ½ Σ ‖W_i − W_i⁰‖²: close to where they started
joint_lasso   l1       input     zero    ≥ 2      Σ over inputs of ‖(W_1[:, j], …, W_N[:, j])‖: zero in all members
trace_norm    l1       spectrum  zero    ≥ 2      sum of the singular values of the stacked members: low rank
============  =======  ========  ======  =======  ====================================================================

Smooth penalties (``squared``) are added to training as a gradient; the others are followed by a proximal step of size
learning rate × strength, which is what makes groups *exactly* equal to their center. Hard sharing (``hard_tie``) is the
end of the line: one copy, see `lit_share.sharing.share`.
"""

from lit_share.functional._centers import mean
from lit_share.functional._cluster import cluster_rows
from lit_share.functional._local import locally_connected, output_size
from lit_share.functional._multi_tensor import add_gradient_, no_groups_held, prox_
from lit_share.functional._owl import owl_weights, prox_owl
from lit_share.functional._penalty import Penalty
from lit_share.functional._shards import Part, Shards

__all__ = [
    "Part",
    "Penalty",
    "Shards",
    "add_gradient_",
    "cluster_rows",
    "locally_connected",
    "mean",
    "no_groups_held",
    "output_size",
    "owl_weights",
    "prox_",
    "prox_owl",
]
