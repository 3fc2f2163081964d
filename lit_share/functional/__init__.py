"""The algebra of tying: tensors in, tensors out.

Everything here is one line:

.. code-block:: text

    penalty = norm  ∘  groups  ∘  (weights − center)      strength: 0 → soft → exact → hard (one copy)

`Penalty` composes the three; the norms, groupings and centers are tables in files of those names, and a new method
is a new row. The usual names of the field are these rows:

=============  ========  ===================  ======  ====================================================
recipe         norm      groups               center  members end up
=============  ========  ===================  ======  ====================================================
l2             squared   element              zero    small
lasso          l1        element              zero    zero, number by number
group_lasso    l1        input                zero    zero, input by input
oscar / growl  owl       element / input      zero    zero, or equal in size (growl: rows of related inputs)
soft_tie       squared   element              mean    close to each other
exact_tie      l1        element              mean    equal, number by number
unit_tie       l1        output               mean    equal, unit by unit
layer_tie      l1        tensor               mean    equal, layer by layer
follow         squared   element              first   close to the first member, which does not move
l2_sp          squared   element              start   close to where they started
joint_lasso    l1        input                zero    zero in all members at once, input by input
trace_norm     l1        spectrum             zero    combinations of few common members
=============  ========  ===================  ======  ====================================================
"""

from lit_share.functional._centers import mean
from lit_share.functional._multi_tensor import add_gradient_, prox_
from lit_share.functional._owl import owl_weights, prox_owl
from lit_share.functional._penalty import Penalty

__all__ = ["Penalty", "add_gradient_", "mean", "owl_weights", "prox_", "prox_owl"]
