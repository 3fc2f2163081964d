"""Ways to export a module: each returns a function of inputs, and how many numbers it stores."""

from __future__ import annotations

import copy
import io
from math import prod
from pathlib import Path

import safetensors.torch
import torch
from torch.export import Dim, ExportedProgram


def numbers(tensors):
    """How many floating-point numbers tensors store; those of one memory count once."""
    stored = {
        (t.untyped_storage().data_ptr(), t.device): t.untyped_storage().nbytes() // t.itemsize
        for t in tensors
        if t.is_floating_point()
    }
    return sum(stored.values())


def of_module(module):
    return numbers(module.state_dict().values())


def saved(program):
    """An exported program after a round trip through a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert isinstance(loaded, ExportedProgram)
    return loaded.module(), numbers(loaded.state_dict.values())


def static(module, inputs):
    return saved(torch.export.export(module, (inputs,)))


def dynamic(module, inputs):
    sizes = ({0: Dim("batch", min=2)},)
    return saved(torch.export.export(module, (inputs,), dynamic_shapes=sizes))


def onnx(module, inputs):
    """Without constant folding, which would store a weight again for each operation on it."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    program = torch.onnx.export(
        module, (inputs,), dynamo=True, verbose=False, optimize=False,
        dynamic_shapes=({0: Dim("batch", min=2)},),
    )  # fmt: skip
    program.save("module.onnx")
    graph = onnx.load("module.onnx")
    floats = [entry for entry in graph.graph.initializer if entry.data_type == 1]
    name, evaluator = graph.graph.input[0].name, ReferenceEvaluator(graph)

    def run(x):
        return torch.from_numpy(evaluator.run(None, {name: x.numpy()})[0].copy())

    return run, sum(prod(entry.dims) for entry in floats)


def compiled(module, inputs, fullgraph=True):
    torch.compiler.reset()
    run = torch.compile(module, backend="aot_eager", fullgraph=fullgraph)
    run(inputs)
    return run, of_module(module)


def safe(module, inputs, strict=True):
    """`save_model`, loaded into a module that shares the same parameters."""
    file = Path("module.safetensors")
    safetensors.torch.save_model(module, str(file))
    other = copy.deepcopy(module)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    safetensors.torch.load_model(other, file, strict=strict)
    return other, numbers(safetensors.torch.load_file(file).values())


EXPORTERS = {
    "`torch.export`": static,
    "any batch": dynamic,
    "ONNX": onnx,
    "`torch.compile`": compiled,
    "safetensors": safe,
}
