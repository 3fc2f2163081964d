"""Configure Sphinx: `sphinx-build -W --keep-going -n docs build/docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

sys.path.append(str(Path(__file__).parent / "_extensions"))

project = "lit_share"
author = "the lit_share authors"
project_copyright = author
version = release = version_of("lit-share")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "newest_report",
]
exclude_patterns = ["_extensions"]
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as on GitHub, so that links to headings work in both places

# Docstrings are in Google form, and single backticks in them are links to Python names.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_typehints = "none"  # signatures stay short, and Args say what types mean
autodoc_mock_imports = ["transformers"]  # an extra
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
nitpick_ignore_regex = [
    # Names in backticks without a target: arguments, names of other modules, private names.
    ("py:obj", ".*"),
    # Private names, in the signatures of public ones.
    ("py:class", r"lit_share\.(.*\.)?_.*"),
    # Names of other libraries: the build downloads no inventories.
    (
        "py:.*",
        (
            r"(torch|nn|lightning|hydra|plotly|numpy|omegaconf|typing|collections|optional|Path|"
            r"pathlib)\b.*"
        ),
    ),
]


def setup(app: Sphinx) -> None:
    """Leave out members without a docstring of their own: fields of named tuples."""
    app.connect("autodoc-skip-member", lambda *arguments: _is_field(arguments[3]) or None)


def _is_field(member: object) -> bool:
    return str(getattr(member, "__doc__", "")).startswith("Alias for field number")


html_theme = "furo"
html_title = f"lit_share {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
html_copy_source = False
