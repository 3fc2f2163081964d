"""Facts, links and figures of the pages are right."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import benchmarks.speed.__main__ as speed
import lit_share

from . import _recipes
from ._pages import DOCS, PAGES, ROOT, anchors, name, text

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LINKING = [*PAGES, ROOT / "examples" / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipes(up_to_date):
    up_to_date("recipes.md", _recipes.page())


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"", text(page))
    local = [link or image for link, image in links if "://" not in (link or image)]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_links_lead_to_headings_that_are_there(page):
    dead = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text(page)):
        target = page
        if link:
            target = page.parent / link
        if "://" not in link and anchor not in anchors(target):
            dead.append(f"{link}#{anchor}")
    assert dead == []


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Ties of `a.*` & b\n```bash\n# no heading\n```\n## A [link](x.md)\n## A link\n"
        "### snake_case, 2.0\n#### too deep\n"
    )
    assert anchors(page) == {"ties-of-a--b", "a-link", "a-link-1", "snake_case-20"}


def test_the_readme_is_short_and_has_the_two_commands():
    lines = text(ROOT / "README.md").splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if line.startswith("pip install ")] == [
        "pip install -c constraints.txt -e . && python train.py regularizer=soft_tie",
        'pip install -c constraints.txt -e ".[test]" && pytest -n 2',
    ]


def test_the_api_has_every_package_with_public_names():
    packages = {
        module.name
        for module in pkgutil.walk_packages(lit_share.__path__, "lit_share.")
        if not module.name.rpartition(".")[2].startswith("_")
        and module.name != "lit_share.lab"
        and not {
            "app", "cli", "conf", "errors", "files",
            "lightnings", "race", "search", "sweeps", "text",
        }
        & set(module.name.split("."))
    }  # fmt: skip
    assert set(re.findall(r"automodule:: (\S+)", text(DOCS / "api.md"))) == packages


def test_the_gallery_has_every_example():
    examples = {f"{path.stem}.py" for path in (ROOT / "examples").glob("*.py")} | {
        "cli/config.yaml"
    }
    assert (
        set(re.findall(r"literalinclude\} \.\./examples/(\S+)", text(DOCS / "gallery.md")))
        == examples
    )


def test_every_benchmark_is_named():
    page = text(DOCS / "benchmarks.md")
    programs = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")
    } | {"speed", "scale"}
    assert set(re.findall(r"`python -m benchmarks\.(\w+)", page)) == programs


@pytest.mark.parametrize(
    "command",
    [
        "python -m benchmarks.speed --report FILE",
        "python -m benchmarks.speed layers growth --threads 1 2 --report FILE",
    ],
)
def test_a_report_names_its_command(command):
    assert speed.command_of(speed.parse(command.split()[3:])) == command


@pytest.mark.parametrize("figure", ["shrinkage", "groups", "centers"])
def test_figures_of_the_algebra_are_what_is_drawn(figure, tmp_path):
    getattr(load(DOCS / "figures.py"), figure)(tmp_path)
    drawn, kept = text(tmp_path / f"{figure}.svg"), text(DOCS / "figures" / f"{figure}.svg")
    assert NUMBER.sub("0", drawn) == NUMBER.sub("0", kept), "run python docs/figures.py"
    numbers = [list(map(float, NUMBER.findall(svg))) for svg in (drawn, kept)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.2), "run python docs/figures.py"
