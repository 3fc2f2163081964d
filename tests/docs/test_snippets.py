"""The Python of the pages runs: a page from top to bottom, the README piece by piece."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import pytest
from torch import distributed

from ._pages import PAGES, blocks, name

SNIPPETS = {
    f"{name(page)}{number}": code
    for page in PAGES
    if (found := blocks(page, "python"))
    for number, code in (
        {f"-{i}": code for i, code in enumerate(found, start=1)}
        if page.name == "README.md"
        else {"": "\n".join(found)}
    ).items()
}


@pytest.fixture
def _no_process_group():
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def check_tutorial(names):
    """What it decides is what it says."""
    shared, alone = names["binarised"], names["inverted"]
    assert all(shared[name].low > 0.0 for name in names["strategies"] if name != "separate")
    assert names["decide"](alone).startswith("share: nothing;")
    assert alone["equal unit by unit"].high < 0.0
    assert alone["one copy"].mean < -0.01 < alone["softly tied, learned"].mean
    assert abs(alone["one copy of the first layer"].mean) < 0.015


CHECKS = {"docs/tutorial.md": check_tutorial}
LONG = {"docs/tutorial.md", "docs/howto/growl.md"}
# `.ci/long` runs them after all others, where the extra is installed.
NEEDS = {"docs/howto/huggingface.md": ["transformers", "accelerate", "peft"]}


def test_there_are_snippets():
    assert {"README.md-1", "docs/tutorial.md", "docs/howto/devices.md"} <= set(SNIPPETS)


@pytest.mark.usefixtures("own_folder", "quiet", "_no_process_group")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=[pytest.mark.slow] if place in LONG else []) for place in SNIPPETS],
)
def test_it_runs(place):
    if not all(map(find_spec, NEEDS.get(place, []))):
        pytest.skip(f"needs {', '.join(NEEDS[place])}")
    if place in NEEDS:
        warnings.simplefilter("default")  # those of these libraries are no errors there
    names = {"__name__": "__main__"}
    exec(compile(SNIPPETS[place], place, "exec"), names)  # the point of the test
    CHECKS.get(place, lambda _: None)(names)
