"""The table as a page, and what each cell of it says when it passes."""

from __future__ import annotations

from ._exporters import EXPORTERS
from ._modules import KINDS

HEAD = """\
# What can be exported

Layers of each kind that are shared (`ls.share`) or were made compact, and what exports them. Every
cell is tested. **ok**: the export has the outputs of the module, and stores no number twice: one
copy stays one copy.

- `torch.export`: with the example's batch size, and with **any batch** size, each saved with
  `torch.export.save` and loaded.
- ONNX: `torch.onnx.export(…, dynamo=True, optimize=False)`, any batch size. The optimization that
  is on by default folds constants: it stores a weight again for each operation on it, such as the
  transpose of a `.T` tie. This needs `pip install -c constraints.txt -e ".[onnx]"`.
- `torch.compile` with `fullgraph=True`, outputs and gradients.
- safetensors: `safetensors.torch.save_model` and `load_model`.

`pytest -m "" tests/exports` runs the tests, and `pytest tests/exports -k page --write-docs`
generates this page.

"""

NOTES = """
- **no**: safetensors looks into tensors of one memory as if they were contiguous, which the
  transpose of a tensor is not, and raises `RuntimeError: view size is not compatible`. Use
  [`ls.save_compact`](howto/compact_files.md), which stores all kinds, each number once.
- **ok, loose**: `load_model(…, strict=False)`, as torch itself adds the number of batches that a
  file lacks under its second name.
- **ok, breaks**: without `fullgraph=True`, as torch does not compile recurrent layers.
- `torch.jit.trace` and `to(memory_format=torch.channels_last)` take locally connected layers, too.
  [Limits](limits.md) names what `torch.jit.script` does not support.
"""


# What passes otherwise than by "ok".
EXCEPTIONS = {
    ("transposed (`.T`)", "safetensors"): "no",
    ("`BatchNorm2d`, `buffers=True`", "safetensors"): "ok, loose",
    **{(f"`{kind}`", "`torch.compile`"): "ok, breaks" for kind in ("RNN", "LSTM", "GRU")},
}


def word(kind, exporter):
    """What a cell says that passed."""
    return EXCEPTIONS.get((kind, exporter), "ok")


def page():
    lines = [f"| | {' | '.join(EXPORTERS)} |", f"|{'---|' * (len(EXPORTERS) + 1)}"]
    for kind in KINDS:
        lines.append(f"| {kind} | {' | '.join(word(kind, name) for name in EXPORTERS)} |")
    return HEAD + "\n".join(lines) + "\n" + NOTES
