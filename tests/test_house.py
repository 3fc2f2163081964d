"""The house: which folder may import which, and what the code is held to."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_share"
# From the ground up. Folders of one floor do not import each other.
FLOORS = [
    {"text", "files"},
    {"functional"},
    {"ties"},
    {"aliases"},
    {"penalties", "codebooks", "local", "compact_files"},
    {"sharing"},
    {"alignment"},
    {"metrics"},
    {"lightnings"},
    {"paired"},
    {"callbacks", "huggingface"},
    {"cli"},
    {"lab"},
    {"conf"},
]
# `sharing` is above these only because it hands out what they make; it imports none of them.
BESIDE = [{"codebooks", "local", "compact_files", "sharing"}]
LEVELS = {name: level for level, floor in enumerate(FLOORS) for name in floor}
FIRST_WITH_LIGHTNING = LEVELS["lightnings"]
HEAVY = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb"}
# It runs the commands of all floors.
PROGRAM = "cli/__main__.py"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("*/**/*.py"))


@cache
def tree(path):
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def imports(path):
    """All modules and names that a file imports: `from a.b import c` is a.b and c."""
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


@pytest.mark.parametrize("path", [p for p in FILES if p != PROGRAM])
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


def test_a_name_loads_its_own_folder_only():
    """Compact files need neither metrics nor callbacks, nor what torch imports in seconds."""
    (loaded,) = modules_after("import lit_share as ls; ls.load_compact, ls.verify_shared")
    assert roots(loaded).isdisjoint(HEAVY | {"torchmetrics", "sympy"})
    slow = {"torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp"}
    assert loaded.isdisjoint(slow | {"lit_share.metrics", "lit_share.callbacks"})


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
    "huggingface/_share.py": {"mean"},  # init=
    "functional/__init__.py": {"mean"},  # the function
    "penalties/_path.py": {"first"},  # first=
    "codebooks/_tie_rows.py": {"zero"},  # a column of a table
    "cli/_compact.py": {"output"},  # a file
    "alignment/_align.py": {"first", "mean"},  # references
    "callbacks/_align.py": {"first"},  # reference=
    "cli/_align.py": {"first", "mean"},  # --reference
    # Operations of torch, their arguments, and nodes of its graphs.
    "alignment/_contractions.py": {"input"},
    "alignment/_elementwise.py": {"zero"},
    "alignment/_indicators.py": {"input", "mean"},
    "alignment/_layers.py": {"input"},
    "alignment/_needed.py": {"output"},
    "alignment/_recurrent.py": {"input"},
    "alignment/_reductions.py": {"mean"},
    "alignment/_run.py": {"output"},
    "alignment/_slices.py": {"start"},
    "alignment/_walk.py": {"start", "output"},
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


@pytest.fixture
def measured(record_property):
    """Notes a number for the table that is printed at the end, and holds it to its bound."""

    def check(what, number, least=None, most=None):
        bound = f"at most {most}" if least is None else f"at least {least}"
        record_property("house", (what, f"{number:.4g}", bound))
        assert most is None or number <= most, what
        assert least is None or number >= least, what

    return check


def in_place(function, path, calls, assigned=()):
    """The functions of a file that write to tensors by these calls or assignments."""
    found = set()
    for node in ast.walk(tree(path)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and getattr(inner.func, "attr", "") in calls:
                found.add(node.name)
            if isinstance(inner, (ast.Assign, ast.AugAssign)):
                targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
                if any(function(target) for target in targets):
                    found.add(node.name)
    return {(path, name) for name in found}


def calls_of(run):
    """The files and functions of the package that ran, without comprehensions, in order."""
    called = {}

    def note(frame, event, _):
        code = frame.f_code
        inside = Path(code.co_filename).is_relative_to(PACKAGE)
        if event == "call" and inside and not code.co_name.startswith("<"):
            called[code.co_filename, code.co_name, code.co_firstlineno] = None

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return list(called)


@pytest.mark.usefixtures("own_folder", "quiet")
def test_few_functions_from_the_callback_to_the_gradient(measured):
    """Traced in a Trainer, in a step after the first one, which opens views."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch import nn
    from torch.utils.data import DataLoader

    import lit_share as ls

    class Pair(LightningModule):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def training_step(self, batch, _):
            return (self.a(batch) + self.b(batch)).square().mean()

        def train_dataloader(self):
            return DataLoader(torch.ones(12, 3), 4)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    soft_tie = ls.Regularize("soft_tie", ["a.*", "b.*"], strength=0.1)
    traced = []

    class Traced(Callback):
        def on_before_optimizer_step(self, *arguments):
            before = arguments[1].a.weight.grad.clone()
            traced.append(calls_of(lambda: soft_tie.on_before_optimizer_step(*arguments)))
            assert not torch.equal(arguments[1].a.weight.grad, before)

    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Traced(), soft_tie],
    )  # fmt: skip
    trainer.fit(Pair())
    files = {Path(file).relative_to(PACKAGE).as_posix() for file, *_ in traced[-1]}
    assert {"callbacks/_regularize.py", "functional/_loops.py"} <= files
    measured("files from the callback to .grad", len(files), most=6)
    measured("functions from the callback to .grad", len(traced[-1]), most=12)


# What a step runs through.
STEP = [
    path
    for path in FILES
    if path.startswith(("functional/", "ties/", "penalties/")) or path == "callbacks/_regularize.py"
]
# Writes that are no step: a gradient that is missing, and other tensors than parameters.
NO_STEP = {
    ("ties/_view.py", "open_grads"),
    ("functional/_tie_tensors.py", "in_full"),
    ("penalties/_penalty_steps.py", "move_units"),  # starting values
    ("penalties/_rescaling.py", "rescaled"),  # a root of second moments
    ("ties/_same_start.py", "same_start"),  # before training
    ("ties/_transposed.py", "_load_transposes"),  # while a state dict is loaded
}


def element_of(*names):
    """Whether a node is an element of an array of one of these names, as in ``w[i] = …``."""
    return lambda node: isinstance(node, ast.Subscript) and getattr(node.value, "id", "") in names


def is_grad(node):
    return isinstance(node, ast.Attribute) and node.attr == "grad"


def writes_of_a_step(in_loops, in_torch):
    """The writes that ``in_loops`` finds in the file of loops, and ``in_torch`` in the others."""
    writes = set()
    for path in STEP:
        find = in_loops if path == "functional/_loops.py" else in_torch
        writes |= find(path)
    return writes - NO_STEP


def test_two_places_write_gradients(measured):
    """Plain torch, and compiled loops."""
    writes = writes_of_a_step(
        lambda path: in_place(element_of("g", "gx", "gy"), path, ()),
        lambda path: {w for w in in_place(is_grad, path, {"add_"}) if "prox" not in w[1]},
    )
    assert ("functional/_batch.py", "accumulate_") in writes
    assert ("functional/_loops.py", "add_gradients") in writes
    measured("places that write gradients", len(writes), most=2)


def test_two_files_write_weights(measured):
    """Plain torch, and compiled loops, where each way of moving is a loop."""
    writes = writes_of_a_step(
        lambda path: in_place(element_of("w", "x", "y"), path, ()),
        lambda path: in_place(lambda _: False, path, {"copy_", "set_", "mul_", "sub_"}),
    )
    files = {path for path, _ in writes}
    assert ("functional/_batch.py", "write_") in writes
    measured("files that write weights", len(files), most=2)


def lines_of(*folders, suffix="*.py"):
    root = PACKAGE.parent
    for folder in folders:
        for path in sorted((root / folder).rglob(suffix)):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield f"{path.relative_to(root)}:{number}", line


def test_no_long_lines(measured):
    folders = ("lit_share", "hydra_plugins", "tests", "benchmarks", "examples", "docs")
    long = [where for where, line in lines_of(*folders) if len(line) > 100]
    measured("lines of more than 100 characters", len(long), most=0)


def test_few_conditional_expressions(measured):
    lines = sum(1 for _ in lines_of("lit_share"))
    nodes = chain.from_iterable(map(ast.walk, map(tree, ["__init__.py", *FILES])))
    expressions = [node for node in nodes if isinstance(node, ast.IfExp)]
    chained = [e for e in expressions if isinstance(e.orelse, ast.IfExp)]
    assert not chained
    measured("x if c else y, per 1,000 lines", 1000 * len(expressions) / lines, most=6)


def test_comments_say_why(measured):
    lines = [line.strip() for _, line in lines_of("lit_share")]
    comments = sum(line.startswith("#") for line in lines)
    measured("comment lines, %", 100 * comments / len(lines), least=3.5)


def test_the_test_sees_writes():
    path = "functional/_loops.py"
    assert (path, "add_gradients") in in_place(element_of("gx"), path, ())
    assert ("functional/_batch.py", "write_") in in_place(
        lambda _: False, "functional/_batch.py", {"copy_"}
    )


def test_the_test_sees_imports():
    assert ("lit_share.ties", "Ties") in set(imports("callbacks/_share.py"))
    assert "functional" in set(imported_folders("sharing/_share.py"))
    assert len(FILES) > 20
