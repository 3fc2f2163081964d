"""Skips all tests here where transformers, accelerate or peft are missing."""

from importlib.util import find_spec

import pytest

EXTRAS = ("transformers", "accelerate", "peft")
collect_ignore_glob = []
if not all(map(find_spec, EXTRAS)):
    collect_ignore_glob += ["test_*.py", "_*.py"]


@pytest.fixture(autouse=True)
def _lightning(own_folder, quiet):
    """For all tests here."""


def pytest_collection_modifyitems(items):
    """Leave warnings of transformers and peft alone, which are not errors there."""
    for item in items:
        if "tests/huggingface" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error::UserWarning:lit_share"))
