"""The house: which folder may import which, and what the code is held to."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_share"
# From the ground up. Folders of one floor do not import each other.
FLOORS = [
    {"text"},
    {"functional"},
    {"ties"},
    {"aliases"},
    {"penalties", "codebooks", "local", "compact_files"},
    {"sharing"},
    {"metrics"},
    {"paired"},
    {"callbacks"},
    {"cli"},
    {"lab"},
    {"conf"},
]
# `sharing` is above these only because it hands out what they make; it imports none of them.
BESIDE = [{"codebooks", "local", "compact_files", "sharing"}]
LEVELS = {name: level for level, floor in enumerate(FLOORS) for name in floor}
FIRST_WITH_LIGHTNING = LEVELS["paired"]
HEAVY = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb"}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/*.py"))


def tree(path):
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def imports(path):
    """The modules and names that a file imports, wherever in it: `from a.b import c` is a.b and c."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


def imported_folders(path):
    """The folders of lit_share that a file imports, other than its own."""
    for module, name in imports(path):
        root, *rest = [*module.split("."), *([name] if module == "lit_share" else [])]
        if root == "lit_share":
            assert rest, f"{path} imports lit_share as a whole: import what it needs of it"
            if rest[0] != Path(path).parts[0]:
                yield rest[0]


@pytest.mark.parametrize("path", FILES)
def test_imports_go_down(path):
    own = Path(path).parts[0]
    assert own in LEVELS, f"{own} is on no floor: add it to FLOORS"
    for folder in imported_folders(path):
        assert LEVELS[folder] < LEVELS[own], f"{path} imports {folder}"
        for beside in BESIDE:
            assert not {own, folder} <= beside, f"{path} imports {folder}"
    if LEVELS[own] < FIRST_WITH_LIGHTNING:
        roots = {module.split(".")[0] for module, _ in imports(path)}
        assert HEAVY.isdisjoint(roots)


def test_folders_inside_the_laboratory_import_each_other_without_a_circle():
    below = defaultdict(set)
    for path in FILES:
        parts = Path(path).parts
        if parts[0] == "lab" and len(parts) > 2:
            inside = (module.split(".") for module, _ in imports(path))
            below[parts[1]] |= {
                module[2]
                for module in inside
                if module[:2] == ["lit_share", "lab"] and len(module) > 2 and module[2] != parts[1]
            }
    TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", FILES)
def test_no_private_name_of_another_folder_is_imported(path):
    own = ["lit_share", *Path(path).parts[:-1]]
    for module, name in imports(path):
        if not module.startswith("lit_share."):
            continue
        parts = [*module.split("."), name]
        private = [i for i, part in enumerate(parts) if part.startswith("_")]
        if private:
            assert parts[: private[0]] == own, f"{path} imports {name} of {module}"


def test_functional_imports_tensors_only():
    roots = {m.split(".")[0] for p in FILES if p.startswith("functional/") for m, _ in imports(p)}
    assert roots - set(sys.stdlib_module_names) <= {"lit_share", "torch", "scipy", "numpy", "numba"}


def modules_after(*lines):
    """The modules that are loaded after each of these lines, in a process of its own."""
    code = "import sys\n" + "\n".join(f"{line}\nprint(*sys.modules)" for line in lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def roots(modules):
    return {name.split(".")[0] for name in modules}


def test_importing_the_package_imports_nothing():
    (loaded,) = modules_after("import lit_share; dir(lit_share)")
    assert roots(loaded).isdisjoint(HEAVY | {"torch", "scipy", "numpy"})


def test_lower_floors_need_no_framework():
    (loaded,) = modules_after(
        "import lit_share as ls; ls.Penalty, ls.share, ls.Ties, ls.sharing_stats, ls.PenaltySteps"
    )
    assert "torch" in loaded
    assert roots(loaded).isdisjoint(HEAVY | {"plotly", "rich", "jinja2", "numba"})


def test_callbacks_load_no_laboratory():
    before, after = modules_after(
        "import lightning.pytorch, torchmetrics",
        "import lit_share as ls; [getattr(ls, name) for name in ls.__all__]",
    )
    new = after - before
    assert "lit_share.callbacks" in new
    assert not any(name.startswith("lit_share.lab") for name in new)
    assert roots(new).isdisjoint({"plotly", "jinja2", "rich", "hydra", "omegaconf", "numba"})


def test_public_names_are_there():
    import lit_share

    for name in lit_share.__all__:
        value = getattr(lit_share, name)
        assert getattr(value, "__name__", name) == name
    assert dir(lit_share) == sorted(lit_share.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Penality'"):
        _ = lit_share.Penality


def tables():
    """The names of norms, groupings and centers."""
    from lit_share.functional import CENTERS, GROUPS, NORMS

    return set(chain(NORMS, GROUPS, CENTERS))


# The tables themselves; the recipes, which are composed of their names; and words of other things.
TABLES = {f"functional/_{name}.py" for name in ("norms", "groups", "centers")}
COMPOSES = {"penalties/_recipes.py"}
ORDINARY = {
    "sharing/_share.py": {"mean", "first"},  # init=
    "callbacks/_share.py": {"mean"},  # init=
    "functional/__init__.py": {"mean"},  # the function
    "codebooks/_tie_rows.py": {"zero"},  # a column of a table
    "cli/_compact.py": {"output"},  # a file
}


@pytest.mark.parametrize("path", [p for p in FILES if p not in TABLES | COMPOSES])
def test_no_names_of_the_tables_outside_of_them(path):
    """A new norm, grouping or center is a row, and nothing else has to know of it."""
    if path.startswith(("lab/", "conf/")):
        return
    names = tables() - ORDINARY.get(path, set())
    texts = [node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)]
    found = {text for text in texts if isinstance(text, str) and text in names}
    assert not found, f"{path} compares {found}: read a property of the row"


def test_the_test_sees_imports():
    assert ("lit_share.ties", "Ties") in set(imports("callbacks/_share.py"))
    assert "functional" in set(imported_folders("sharing/_share.py"))
    assert len(FILES) > 20
