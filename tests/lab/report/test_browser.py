"""The page in a real browser."""

from __future__ import annotations

import json

import pytest

from lit_share.lab.report import compare, write_report
from lit_share.lab.results import read_results

from ._chromium import PROGRAM, Chromium

pytestmark = [
    pytest.mark.skipif(
        PROGRAM is None, reason="Chromium is not installed: apt-get install chromium"
    ),
    pytest.mark.slow,
    pytest.mark.multiprocess,
]


@pytest.fixture
def chromium(tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        yield browser


def opened(chromium, directory, change=lambda content: content, **size):
    for file in directory.rglob("result.json"):
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
    path, *_ = write_report(compare(read_results([directory])), directory)
    chromium.open(path, **size)
    return path


def assert_at_peace(chromium, path):
    """No complaint, and nothing is loaded but the page and its contents."""
    assert chromium.complaints == []
    assert {url for url in chromium.loaded if not url.startswith(("data:", "blob:"))} == {
        path.as_uri()
    }


def count(chromium, selector):
    return chromium.ask(f"document.querySelectorAll({json.dumps(selector)}).length")


def test_every_chart_is_drawn(chromium, sweep):
    path = opened(chromium, sweep)
    charts = count(chromium, ".chart")
    assert charts == 19
    # those in closed details are drawn when these are opened
    assert count(chromium, ".chart:has(.main-svg)") == 14
    chromium.ask("document.querySelectorAll('details').forEach(details => details.open = true)")
    chromium.ask("new Promise(done => setTimeout(done, 500))")
    assert count(chromium, ".chart:has(.main-svg)") == charts
    assert_at_peace(chromium, path)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_as_wide_as_the_window(chromium, sweep, width):
    path = opened(chromium, sweep, width=width)
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    assert (
        chromium.ask(
            "Math.max(...[...document.querySelectorAll('.main-svg')].map(svg => svg.clientWidth))"
        )
        <= width
    )
    assert_at_peace(chromium, path)


def test_names_are_shown_letter_by_letter(chromium, sweep):
    nasty = "</script><script>document.title = 'broken'</script><b>\"'&lt;"

    def change(content):
        content["strategy"] = content["strategy"].replace("soft_tie", nasty)
        content["overrides"] = [
            override.replace("data.n_b", f"data.{nasty}") for override in content["overrides"]
        ]
        content["distances"] = {nasty: [1.0, 0.5]}
        return content

    path = opened(chromium, sweep, change)
    assert chromium.ask("document.title").startswith("Comparison")
    assert nasty in chromium.ask("document.querySelector('tbody').textContent")
    ticks = chromium.ask(
        "[...document.querySelectorAll('#scores .ytick text')].map(tick => tick.textContent)"
    )
    assert nasty in ticks
    titles = chromium.ask(
        "[...document.querySelectorAll('#distances .gtitle')].map(title => title.textContent)"
    )
    assert nasty in titles
    assert_at_peace(chromium, path)


def test_it_is_dark_at_night(chromium, sweep):
    night = [{"name": "prefers-color-scheme", "value": "dark"}]
    chromium.send("Emulation.setEmulatedMedia", features=night)
    path = opened(chromium, sweep)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert chromium.ask(paper) == "rgb(22, 24, 28)"
    # The baseline, which is black by day, has to be seen.
    traces = "[...document.querySelectorAll('.chart')].flatMap(chart => chart.data ?? [])"
    lines = f"{traces}.map(trace => trace.line?.color)"
    assert "#000000" not in chromium.ask(lines)
    assert "#e6e6e6" in chromium.ask(lines)
    chromium.send("Emulation.setEmulatedMedia", features=[])
    chromium.ask("new Promise(done => setTimeout(done, 300))")
    assert "#000000" in chromium.ask(lines)
    assert_at_peace(chromium, path)


def test_it_can_be_printed(chromium, sweep):
    path = opened(chromium, sweep)
    assert chromium.print().startswith(b"%PDF")
    assert_at_peace(chromium, path)


def test_the_test_sees_complaints(chromium, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<script>x.y</script><img src='http://example.com/x.png'>")
    chromium.open(path)
    assert any("x is not defined" in complaint for complaint in chromium.complaints)
    assert "http://example.com/x.png" in chromium.loaded
