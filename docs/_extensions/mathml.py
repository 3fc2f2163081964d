"""Render formulas as MathML: browsers draw it without a script or a network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

# LaTeX that docutils does not know, and what is the same to it.
_SAME = {r"\dots": r"\ldots", r"\Big(": r"\Bigl(", r"\Big)": r"\Bigr)", r"\mathbin": ""}

_SHORT_FRACTION = re.compile(r"\\t?frac(\d)(\d)")  # docutils reads 12 as one number


def mathml(latex: str, block: bool) -> str:
    """A formula in MathML.

    Raises:
        ExtensionError: If docutils does not know a command in it.
    """
    for command, same in _SAME.items():
        latex = latex.replace(command, same)
    latex = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", latex)
    try:
        return str(tex2mathml(latex, as_block=block))
    except Exception as error:
        raise ExtensionError(f"{latex}: {error}") from error


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
