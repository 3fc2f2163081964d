"""Imports go down only, and the lower layers can be had without Lightning, Hydra and W&B."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

PACKAGE = Path(__file__).parents[2] / "lit_share"
LAYERS = [
    {"functional", "text"},
    {"sharing"},
    {"metrics", "paired"},
    {"callbacks"},
    {"cli", "conf"},
    {"lab"},
]
LEVELS = {name: level for level, layer in enumerate(LAYERS) for name in layer}
HEAVY = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb"}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/*.py"))


def imported(path):
    """The full names of the modules that a file imports, wherever in it."""
    package = ["lit_share", *Path(path).parts[:-1]]
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from lit_share import sharing` names a package too.
            yield from (
                (f"{module}.{alias.name}" for alias in node.names)
                if module == "lit_share"
                else [module]
            )


def imported_packages(path):
    """The packages of lit_share that a file imports, other than its own."""
    for name in imported(path):
        root, *rest = name.split(".")
        if root == "lit_share":
            assert rest, f"{path} imports lit_share as a whole: import what it needs of it"
            if rest[0] != Path(path).parts[0]:
                yield rest[0]


@pytest.mark.parametrize("path", FILES)
def test_imports_go_down(path):
    own = Path(path).parts[0]
    assert own in LEVELS, f"{own} belongs to no layer: add it to LAYERS"
    for package in imported_packages(path):
        assert LEVELS[package] <= LEVELS[own], f"{path} imports {package}"
    if LEVELS[own] < 2:
        assert HEAVY.isdisjoint(name.split(".")[0] for name in imported(path))


def test_packages_of_one_layer_import_each_other_without_a_circle():
    below = defaultdict(set)
    for path in FILES:
        below[Path(path).parts[0]].update(imported_packages(path))
    TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


def test_functional_imports_tensors_only():
    roots = {
        name.split(".")[0]
        for path in FILES
        if path.startswith("functional/")
        for name in imported(path)
    }
    assert roots - set(sys.stdlib_module_names) <= {
        "lit_share",
        "torch",
        "scipy",
        "sklearn",
        "numpy",
    }


def test_the_test_sees_imports():
    assert "lit_share.sharing" in set(imported("callbacks/_share.py"))
    assert "lit_share.functional" in set(imported("sharing/_hard.py"))
    assert len(FILES) > 20


def test_importing_the_lower_layers_imports_nothing_heavy():
    code = """
        import sys
        import lit_share
        dir(lit_share)
        print(*sys.modules)
        lit_share.Penalty, lit_share.share, lit_share.Ties, lit_share.sharing_stats
        print(*sys.modules)
    """
    run = subprocess.run(
        [sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True
    )
    name_alone, lower_layers = (
        {name.split(".")[0] for name in line.split()} for line in run.stdout.splitlines()
    )
    assert "torch" in lower_layers
    assert lower_layers.isdisjoint(HEAVY | {"plotly"})
    assert "lit_share" in name_alone
    assert name_alone.isdisjoint(HEAVY | {"torch", "scipy"})


def test_public_names_are_there():
    import lit_share

    for name in lit_share.__all__:
        value = getattr(lit_share, name)
        assert getattr(value, "__name__", name) == name
    assert dir(lit_share) == sorted(lit_share.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Penality'"):
        _ = lit_share.Penality
