"""Export the computation of a module, with errors in the user's words."""

from __future__ import annotations

import linecache
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import tree_flatten

from lit_share.aliases import Inputs, evaluating
from lit_share.alignment._errors import AlignError
from lit_share.alignment._run import arguments, named_tensors, plain, run

TORCH = Path(torch.__file__).parent


def export(module: nn.Module, inputs: Inputs, training: bool = False) -> ExportedProgram:
    """Return the computation of a module on example inputs, in evaluation or in training mode.

    Composite operations stay whole, so that a rule sees ``linear`` and ``lstm``.

    Raises:
        AlignError: If the forward fails on the inputs, branches on the values of tensors, or uses
            what `torch.export` does not support.
    """
    # A forward that fails has the user's own message, where export would have one of its own.
    run(module, inputs)
    args, kwargs = arguments(inputs)
    with evaluating(module), warnings.catch_warnings():
        module.train(training)
        # Recurrent layers assign their lists of weights, which export warns of.
        warnings.simplefilter("ignore")
        # Export knows no dataclasses.
        handle = module.register_forward_hook(lambda _, __, outputs: plain(outputs))
        try:
            return torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:
            raise AlignError(_explain(module, error)) from error
        finally:
            handle.remove()


def placeholder_values(
    program: ExportedProgram, module: nn.Module, inputs: Inputs
) -> list[tuple[Any, bool]]:
    """Return what an exported graph takes, in order, each with whether it is an input."""
    tensors = named_tensors(module)
    values = iter(tree_flatten(arguments(inputs))[0])
    given: list[tuple[Any, bool]] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            given.append((tensors[str(spec.target)], False))
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            given.append((program.constants[str(spec.target)], False))
        else:
            given.append((next(values), True))
    return given


def _explain(module: nn.Module, error: Exception) -> str:
    layer, line = _place(module, error.__traceback__)
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in str(error):
        return (
            f"the forward of {layer} depends on the value of a tensor{line}: compute with "
            "torch.where instead of branching, or align its submodules one by one"
        )
    summary = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "more than 1 value per channel" in summary:
        return (
            f"the forward of {layer} cannot be traced in training mode{line}: {summary}; give "
            "inputs of several samples"
        )
    return (
        f"the forward of {layer} cannot be traced{line}: {summary}; align its submodules one by "
        "one, without this code"
    )


def _place(module: nn.Module, trace: TracebackType | None) -> tuple[str, str]:
    """Return the innermost layer of a traceback, and its last line outside of torch."""
    names = {id(layer): name for name, layer in module.named_modules()}
    layer, line = type(module).__name__, ""
    while trace is not None:
        frame, path = trace.tb_frame, trace.tb_frame.f_code.co_filename
        owner = frame.f_locals.get("self")
        if id(owner) in names:
            layer = repr(names[id(owner)]) if names[id(owner)] else type(module).__name__
        if not Path(path).is_relative_to(TORCH) and Path(path).parent != Path(__file__).parent:
            code = linecache.getline(path, trace.tb_lineno).strip()
            if code:
                line = f" at {Path(path).name}:{trace.tb_lineno}, `{code}`"
        trace = trace.tb_next
    return layer, line
