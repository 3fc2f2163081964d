"""Rules of sums of products: linear layers, matrix products and einsum."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from lit_share.alignment._axes import Axis, leaf
from lit_share.alignment._call import Call, Result, Value, rule

Labels = Sequence[Hashable]


def contract(call: Call, operands: Sequence[tuple[Value, Labels]], result: Labels) -> Value:
    """Unite the axes that have one label, and return those of the labels of the result.

    The sum over labels that the result lacks has no order.
    """
    by_label: dict[Hashable, Axis] = {}
    # Uniform tensors take any order, so they give a label its axis only if no other tensor does.
    for value, labels in sorted(operands, key=lambda operand: operand[0].uniform):
        for label, axis in zip(labels, value.axes, strict=True):
            known = by_label.get(label)
            if known is None or known.size == 1:
                by_label[label] = axis
            elif axis.size == known.size and not value.uniform:
                call.unite(known, axis)
    call.note(by_label.values())
    return Value([by_label.get(label) or leaf(1) for label in result])


def matrix_labels(a: Value, b: Value) -> tuple[list[Hashable], list[Hashable], list[Hashable]]:
    """Return the labels of two factors of `torch.matmul` and of their product."""

    def batch(value: Value) -> list[Hashable]:
        return [("batch", d) for d in range(max(len(value.axes) - 2, 0), 0, -1)]

    of_a = [*batch(a), "row", "inner"][-len(a.axes) :]
    of_b = [*batch(b), "inner", "column"]
    if len(b.axes) == 1:
        of_b = ["inner"]
    longest = max(batch(a), batch(b), key=len)
    kept = [label for label in ("row", "column") if label in of_a or label in of_b]
    return of_a, of_b, [*longest, *kept]


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(call: Call) -> Value:
    """Unite the inner axes of two factors, and the axes of their batches."""
    a, b = call.tensors()
    of_a, of_b, result = matrix_labels(a, b)
    return contract(call, [(a, of_a), (b, of_b)], result)


@rule("addmm", "baddbmm", "addmv")
def add_matmul(call: Call) -> Result:
    """Unite a matrix product with a tensor that is added."""
    if call.name == "addbmm":
        return call.unknown()
    added, a, b = call.tensors()
    of_a, of_b, result = matrix_labels(a, b)
    return Value(call.align([contract(call, [(a, of_a), (b, of_b)], result), added]))


@rule("linear")
def linear(call: Call) -> Value:
    """Unite inputs with the last dimension, and outputs with those of the bias."""
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    rest = list(range(len(x.axes) - 1))
    of_weight = ["out", "in"][-len(weight.axes) :]
    out = contract(call, [(x, [*rest, "in"]), (weight, of_weight)], [*rest, *of_weight[:-1]])
    return Value(call.align([out] if bias is None else [out, bias]))


@rule("bilinear")
def bilinear(call: Call) -> Value:
    """Unite both inputs with their dimension of the weight."""
    a, b, weight, bias = (call.get(name) for name in ("input1", "input2", "weight", "bias"))
    rest: list[Hashable] = list(range(len(a.axes) - 1))
    operands: list[tuple[Value, Labels]] = [
        (a, [*rest, "left"]),
        (b, [*rest, "right"]),
        (weight, ["out", "left", "right"]),
    ]
    out = contract(call, operands, [*rest, "out"])
    return Value(call.align([out] if bias is None else [out, bias]))


@rule("outer", "ger")
def outer(call: Call) -> Value:
    """Return both axes."""
    a, b = call.tensors()
    return contract(call, [(a, ["row"]), (b, ["column"])], ["row", "column"])


@rule("einsum")
def einsum(call: Call) -> Value:
    """Unite the axes of one letter."""
    equation, operands = str(call["equation"]).replace(" ", ""), list(call["tensors"])
    inputs, arrow, output = equation.partition("->")
    terms: list[str] = inputs.split(",")
    if not arrow:
        letters = inputs.replace(",", "").replace("...", "")
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        output = "..." * ("..." in inputs) + "".join(once)
    pairs: list[tuple[Value, Labels]] = []
    widest = 0
    for term, value in zip(terms, operands, strict=True):
        hidden = len(value.axes) - len(term.replace("...", ""))
        widest = max(widest, hidden)
        pairs.append((value, _labels(term, hidden)))
    return contract(call, pairs, _labels(output, widest * ("..." in output)))


def _labels(term: str, hidden: int) -> list[Hashable]:
    """Return the letters of a term, with a number for each dimension that dots stand for."""
    before, _, after = term.partition("...")
    return [*before, *(("batch", d) for d in range(hidden, 0, -1)), *after]


@rule("cdist")
def cdist(call: Call) -> Value:
    """Unite the axes in which distances are measured."""
    a, b = call["x1"], call["x2"]
    n = max(len(a.axes), len(b.axes)) - 2
    batch = [("batch", d) for d in range(n, 0, -1)]
    of_a = [*batch[n + 2 - len(a.axes) :], "row", "inner"]
    of_b = [*batch[n + 2 - len(b.axes) :], "column", "inner"]
    return contract(call, [(a, of_a), (b, of_b)], [*batch, "row", "column"])
