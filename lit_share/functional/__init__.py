"""The algebra of tying: tensors in, tensors out.

Everything here is one line:

.. code-block:: text

    penalty = norm  ∘  groups  ∘  (weights − center)      strength: 0 → soft → exact → hard (one copy)

`Penalty` composes the three; the norms, groupings and centers are tables in files of those names, and a new method
is a new row. `RECIPES` has the usual ones of the field by name, what each does, and when.

Smooth penalties (``squared``) are added to training as a gradient; the others are followed by a proximal step of size
learning rate × strength, which is what makes groups *exactly* equal to their center. Hard sharing (``hard_tie``) is the
end of the line: one copy, see `lit_share.sharing.share`.
"""

from lit_share.functional._centers import mean
from lit_share.functional._cluster import cluster_rows
from lit_share.functional._local import locally_connected, output_size
from lit_share.functional._multi_tensor import add_gradient_, no_groups_held, prox_
from lit_share.functional._owl import owl_weights, prox_owl
from lit_share.functional._owl_weights import OwlWeights
from lit_share.functional._penalty import Penalty
from lit_share.functional._recipes import RECIPES, Recipe, as_penalty
from lit_share.functional._shards import Part, Shards

__all__ = [
    "RECIPES",
    "OwlWeights",
    "Part",
    "Penalty",
    "Recipe",
    "Shards",
    "add_gradient_",
    "as_penalty",
    "cluster_rows",
    "locally_connected",
    "mean",
    "no_groups_held",
    "output_size",
    "owl_weights",
    "prox_",
    "prox_owl",
]
