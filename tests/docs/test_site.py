"""The pages as they are built: no warning, and they look well in a browser."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..lab.report._chromium import PROGRAM, Chromium
from ._pages import DOCS, ROOT

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("furo") is None, reason='pip install -e ".[docs]"'),
    pytest.mark.slow,
    pytest.mark.multiprocess,
]
PICTURED = [
    "index",
    "algebra",
    "strength",
    "howto/alignment",
    "howto/growl",
    "howto/sweeps",
    "howto/positions",
]
WIDE = ["recipes", "benchmarks", "modes", "faults", "experiments", "scale", "howto/growl"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-n", "-d", folder / "read", DOCS, folder / "html"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_it_is_built_without_a_warning(site):
    assert (site / "index.html").exists()


def public_names(package):
    """Read them from its source: those of an extra may not be importable."""
    source = Path(importlib.util.find_spec(package).origin).read_text()
    (names,) = (
        ast.literal_eval(line.value)
        for line in ast.parse(source).body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__all__"
    )
    return names


def test_the_api_has_every_public_name(site):
    api = (site / "api.html").read_text()
    packages = re.findall(r"automodule:: (\S+)", (DOCS / "api.md").read_text())
    names = {f"{package}.{name}" for package in packages for name in public_names(package)}
    assert {name for name in names if f'id="{name}"' not in api} == set()
    assert 'id="lit_share.functional.Penalty.prox"' in api


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = re.compile(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"')
    assert {
        url for page in site.rglob("*.html") for url in loaded.findall(page.read_text())
    } == set()


@pytest.mark.parametrize("page", PICTURED)
def test_pictures_are_shown(chromium, site, page):
    chromium.open(site / f"{page}.html")
    sizes = json.loads(
        chromium.ask(
            "JSON.stringify([...document.querySelectorAll('article img')].map(i => [i.complete && "
            "i.naturalWidth, i.clientWidth, i.parentElement.clientWidth]))"
        )
    )
    assert sizes
    assert all(natural > 0 and shown > 100 for natural, shown, _ in sizes)
    assert not any(complaint.startswith("error") for complaint in chromium.complaints)


def test_the_home_page_is_not_blank(chromium, site, tmp_path):
    image = pytest.importorskip("PIL.Image")
    chromium.open(site / "index.html")
    chromium.screenshot(tmp_path / "home.png", whole=False)
    shown = image.open(tmp_path / "home.png").convert("L")
    dark = sum(shown.histogram()[:128]) / (shown.width * shown.height)
    assert 0.005 < dark < 0.3


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", sorted({*PICTURED, *WIDE, "tutorial"}))
def test_nothing_is_wider_than_the_window(chromium, site, page, width):
    """Wide tables and formulas scroll by themselves."""
    chromium.open(site / f"{page}.html", width=width)
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    assert chromium.ask(
        "[...document.querySelectorAll('article table')].every(table => { const box = "
        "table.closest('.table-wrapper'); return box && box.getBoundingClientRect().right <= "
        "innerWidth })"
    )
