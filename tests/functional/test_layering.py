"""The algebra stands by itself: tensors in, tensors out."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

from lit_share.functional import CENTERS, GROUPS, NORMS
from lit_share.functional._centers import CenterName
from lit_share.functional._groups import GroupsName
from lit_share.functional._norms import NormName

from . import _zoo

FRAMEWORKS = (
    "lightning",
    "pytorch_lightning",
    "lightning_fabric",
    "hydra",
    "omegaconf",
    "wandb",
    "torchmetrics",
)


def test_imports_no_framework():
    """Nor any other layer of the package but the texts of messages."""
    code = "import sys, lit_share.functional; print(*sys.modules, sep='\\n')"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    modules = output.split()
    assert "torch" in modules
    assert not {name.partition(".")[0] for name in modules} & set(FRAMEWORKS)
    own = {".".join(name.split(".")[:2]) for name in modules if name.startswith("lit_share.")}
    assert own == {"lit_share.functional", "lit_share.text"}


def test_tables_and_type_names_agree():
    """A config is checked against the type names before a table is looked at."""
    assert tuple(NORMS) == get_args(NormName)
    assert tuple(GROUPS) == get_args(GroupsName)
    assert tuple(CENTERS) == get_args(CenterName)


def test_registry_of_these_tests_is_complete():
    """Who adds a norm, a grouping or a center finds out here that the tests need a row for it."""
    assert {norm for norm, _, _ in _zoo.NORMS.values()} == set(NORMS)
    assert set(_zoo.GROUPS) == set(GROUPS)
    assert set(_zoo.CENTERS) == set(CENTERS)
    assert all(min(counts) == CENTERS[name].min_members for name, counts in _zoo.CENTERS.items())
