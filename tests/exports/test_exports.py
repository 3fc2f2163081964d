"""Exports have the outputs of modules that share parameters, and store no number twice."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product

import pytest
import torch
from torch._dynamo.exc import Unsupported

import lit_share as ls

from ._document import page, word
from ._exporters import EXPORTERS, compiled, of_module, safe
from ._modules import KINDS, made

pytestmark = [
    pytest.mark.usefixtures("own_folder"),
    # torch's own when it compiles any autograd.Function
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    # torch's own of any recurrent layer
    pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning"),
]


def marks(kind, exporter):
    """Files are written in no time; of the others, a few are representative."""
    marks = []
    if exporter == "ONNX":
        marks.append(
            pytest.mark.skipif(
                not (find_spec("onnx") and find_spec("onnxscript")), reason="needs the extra onnx"
            )
        )
        marks.append(pytest.mark.filterwarnings("default"))
    if exporter != "safetensors":
        marks.append(pytest.mark.slow)
    return marks


CELLS = [
    pytest.param(kind, exporter, marks=marks(kind, exporter))
    for kind, exporter in product(KINDS, EXPORTERS)
]


@pytest.mark.parametrize(("kind", "exporter"), CELLS)
def test_one_copy_stays_one_copy(kind, exporter):
    module, inputs = made(kind)
    says = word(kind, exporter)
    if says == "no":
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            EXPORTERS[exporter](module, inputs)
        return
    if says == "ok, loose":
        with pytest.raises(RuntimeError, match="num_batches_tracked"):
            safe(module, inputs)
        run, stored = safe(module, inputs, strict=False)
    elif says == "ok, breaks":
        with pytest.raises(Unsupported, match="does not support RNN, GRU, or LSTM"):
            compiled(module, inputs)
        run, stored = compiled(module, inputs, fullgraph=False)
    else:
        run, stored = EXPORTERS[exporter](module, inputs)
    torch.testing.assert_close(run(inputs), module(inputs), rtol=1e-4, atol=1e-5)
    if exporter in ("any batch", "ONNX"):
        more = torch.cat([inputs, inputs.flip(0)])
        torch.testing.assert_close(run(more), module(more), rtol=1e-4, atol=1e-5)
    assert stored == of_module(module)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_modules_have_the_same_gradients(kind):
    module, inputs = made(kind)
    run, _ = compiled(module, inputs, fullgraph=word(kind, "`torch.compile`") == "ok")
    parameters = list(module.parameters())
    gradients = [
        torch.autograd.grad(net(inputs).square().sum(), parameters) for net in (run, module)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_something_to_store_once(kind):
    """Without sharing or compaction a cell would show nothing."""
    module, inputs = made(kind)
    before = module(inputs)
    ls.save_compact(module, "module.safetensors")
    if "ls.compact" in kind:
        assert module.b.weight.shape == (6, 6)
        return
    shared = of_module(module)
    if "filter" in kind:
        assert isinstance(module[0], torch.nn.Conv2d)
        return
    ls.unshare(module)
    torch.testing.assert_close(module(inputs), before)
    assert of_module(module) > shared


def test_the_page_is_that_of_the_table(up_to_date):
    up_to_date("exports.md", page())
