"""Rules of recurrent layers and cells."""

from __future__ import annotations

from lit_share.alignment._axes import Axis, leaf, sum_of
from lit_share.alignment._call import Call, Result, Stacked, Value, rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(*GATES)
def recurrent(call: Call) -> Result:
    """Give each layer and direction hidden units of its own, which its gates have in common.

    With n gates, a weight has n · H outputs as a sum: H + … + H. The inputs of a layer are the
    outputs of both directions of the layer before, one after the other. An LSTM with projections
    has other units for its outputs than for its cells.
    """
    if "params" not in call.arguments or "batch_sizes" in call.arguments:  # a packed sequence
        return call.unknown()
    x = call["input"]
    states = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
    weights, layers = list(call["params"]), call["num_layers"]
    directions = 1 + call["bidirectional"]
    count = len(weights) // (layers * directions)
    batch_first = call["batch_first"] and len(x.axes) == 3
    call.pin(x.axes[int(batch_first)])
    inputs = x.axes[-1]
    hidden: list[Axis] = []
    cells: list[Axis] = []
    for _ in range(layers):
        outputs = []
        for _ in range(directions):
            taken, weights = weights[:count], weights[count:]
            cell, output = _layer(call, inputs, taken)
            cells.append(cell)
            outputs.append(output)
        hidden += outputs
        inputs = sum_of(outputs)
    results: list[Value | Stacked] = [Value([*x.axes[:-1], inputs])]
    for units, state in zip((hidden, cells), states, strict=False):
        along = call.fixed(len(units))
        batch = state.axes[1:-1]
        if len(batch) == 1:
            batch = call.align([Value(batch, state.uniform), Value([x.axes[1 - batch_first]])])
        slices = [Value([along, *batch, axis]) for axis in units]
        if not state.uniform:
            for axis in units:
                call.unite(axis, state.axes[-1])
        results.append(Stacked(slices, along))
    return results


def _layer(call: Call, inputs: Axis, weights: list[Value]) -> tuple[Axis, Axis]:
    """Unite the weights of one direction of one layer; return its cells and its outputs."""
    gates = GATES[call.name]
    cell = leaf(weights[1].axes[0].size // gates)
    output = cell
    if weights[-1].axes[0].size != gates * cell.size:
        projection = weights[-1]
        output = projection.axes[0]
        call.unite(projection.axes[1], cell)
    for weight, columns in zip(weights, (inputs, output, None, None), strict=False):
        if weight is weights[-1] and output is not cell:
            break
        call.unite(weight.axes[0], sum_of([cell] * gates))
        if columns is not None:
            call.unite(weight.axes[1], columns)
    # A weight from a layer's units to themselves has both as dimensions.
    call.note([inputs, cell, output])
    return cell, output


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: Call) -> Value | list[Value]:
    """Unite the gates of a cell, and its states with its units."""
    x = call["input"]
    states = call["hx"] if isinstance(call["hx"], list) else [call["hx"]]
    gates = GATES[call.name.removesuffix("_cell")]
    units = leaf(states[0].axes[-1].size)
    for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
        if (weight := call.get(name)) is not None:
            call.unite(weight.axes[0], sum_of([units] * gates))
    call.unite(call["w_ih"].axes[1], x.axes[-1])
    call.unite(call["w_hh"].axes[1], units)
    for state in states:
        if not state.uniform:
            call.unite(state.axes[-1], units)
    batch = call.align([Value(s.axes[:-1], s.uniform) for s in (x, *states)])
    call.note([x.axes[-1], units])
    results = [Value([*batch, units]) for _ in states]
    return results if len(results) > 1 else results[0]
