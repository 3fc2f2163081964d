"""The rule of scaled dot product attention."""

from __future__ import annotations

from lit_share.alignment._axes import leaf, product_of
from lit_share.alignment._call import Call, Value, rule
from lit_share.alignment._contractions import contract


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """Unite q and k in their last dimension, k and v in their positions, and all in their heads.

    With grouped queries, the heads of q are those of k and v times the queries of each.
    """
    q, k, v, mask = (call.get(name) for name in ("query", "key", "value", "attn_mask"))
    heads = len(q.axes) - 2
    if call.get("enable_gqa"):
        k, v = (_repeated(value, q.axes[-3].size) for value in (k, v))
    batch = [("batch", d) for d in range(heads, 0, -1)]
    scores = contract(
        call,
        [(q, [*batch, "query", "inner"]), (k, [*batch, "key", "inner"])],
        [*batch, "query", "key"],
    )
    if mask is not None:
        scores = Value(call.align([scores, mask]))
    if call.get("is_causal"):
        call.pin(*scores.axes[-2:])
    call.note(scores.axes[:-1])
    return contract(
        call,
        [(scores, [*batch, "query", "key"]), (v, [*batch, "key", "outer"])],
        [*batch, "query", "outer"],
    )


def _repeated(value: Value, heads: int) -> Value:
    own = value.axes[-3]
    repeated = product_of([own, leaf(heads // own.size)])
    return Value([*value.axes[:-3], repeated, *value.axes[-2:]], value.uniform)
