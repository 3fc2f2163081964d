"""Names that are programs: in the page, in a real browser, in tables and in terminals."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from rich.console import Console

from lit_share.callbacks import distance_heatmap
from lit_share.lab.cli import main
from lit_share.lab.report import CompareRuns, _write, compare, page, write_report
from lit_share.lab.results import read_results

from ._chromium import PROGRAM, Chromium

ATTACKS = {
    "link": """<a href="javascript:pwned('link')">link</a>""",
    "image": """<img src=x onerror="pwned('image')">""",
    "script": "</script><script>pwned('script')</script>",
    "bold": "<b>bold</b><br>%{x}%{customdata}",
    "title": "</title><svg onload=pwned('title')>",
    "quote": """"' onmouseover='pwned("quote")' x=\"""",
    "entity": "&lt;b&gt;&amp;lt;",
    "template": "{{ self.__init__.__globals__ }}{% raw %}${7*7}",
    "terminal": "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\x7f",
    "markup": "[bold red]x[/bold red][/nothing][link=http://x]y[/link]\\[",
}
OURS = {"<br>", "<extra>", "</extra>"}  # of our own hover texts
ALL = "".join(ATTACKS[name] for name in ATTACKS if name not in ("terminal", "template"))


@pytest.fixture
def hostile(sweep):
    """Turns a sweep into one whose every text is an attack."""

    def hostile(attack):
        for file in sweep.rglob("result.json"):
            content = json.loads(file.read_text())
            content |= {
                "strategy": content["strategy"].replace("soft_tie", attack),
                "data": attack,
                "model": f"model {attack}",
                "ties": f"ties {attack}",
                "objective": f"val/{attack}",
                "validation": {f"val/{attack}": content["validation"]["b/val/acc"]},
                "test": {f"test/{attack}": content["test"]["b/test/acc"]},
                "overrides": [*content["overrides"], f"x.{attack}={attack}{content['seed'] % 1}"],
                "distances": {attack: [1.0, 0.5, 0.25]},
                "tied": {attack: 0.5},
                "clusters": {attack: {f"a.{attack}": 0, f"b.{attack}": 0, f"c.{attack}": 1}},
            }  # fmt: skip
            file.write_text(json.dumps(content))
            file.with_name("config.yaml").write_text(f"name: {attack}\n")
        failed = sweep / "failed" / "result.json"
        failed.parent.mkdir()
        failed.write_text(
            json.dumps(content | {"status": "failed", "error": f"{attack}\nand {attack}"})
        )
        return sweep

    return hostile


@pytest.mark.slow
def test_the_page_has_no_more_elements_than_without_attacks(hostile, sweep):
    tags = _tags(_page_of(hostile("plain")))
    before = "plain"
    for attack in (ALL, ATTACKS["template"], ATTACKS["terminal"]):
        for file in [*sweep.rglob("result.json"), *sweep.rglob("config.yaml")]:
            text = file.read_text()
            file.write_text(
                text.replace(json.dumps(before)[1:-1], json.dumps(attack)[1:-1]).replace(
                    before, attack
                )
            )
        before = attack
        html = _page_of(sweep)
        assert _tags(html) == tags
        figures = re.findall(
            r'<script type="application/json">(.*?)</script>', html, flags=re.DOTALL
        )
        assert len(figures) > 5
        for figure in figures:
            assert set(re.findall("<[^>]*>", json.dumps(json.loads(figure)))) <= OURS


def _page_of(sweep):
    comparison = compare(read_results([sweep]))
    return page(comparison, sweep, title=comparison.metric)


def _tags(html):
    from html.parser import HTMLParser

    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, [name for name, _ in attrs]))

    Tags(convert_charrefs=True).feed(html)
    return found


@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed: apt-get install chromium")
@pytest.mark.slow
@pytest.mark.multiprocess
def test_nothing_is_executed_in_a_browser(hostile, tmp_path):
    """All figures are drawn, and pointed at, and all names are there letter by letter."""
    directory = hostile(ALL)
    path, *_ = write_report(compare(read_results([directory])), directory)
    with Chromium(tmp_path / "profile") as chromium:
        chromium.send(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.did = []; window.pwned = x => did.push(x)",
        )
        chromium.open(path)
        chromium.ask("document.querySelectorAll('details').forEach(details => details.open = true)")
        chromium.ask("new Promise(done => setTimeout(done, 800))")
        charts = chromium.ask("document.querySelectorAll('.chart').length")
        assert (
            charts == chromium.ask("document.querySelectorAll('.chart:has(.main-svg)').length") > 5
        )
        hovered = chromium.ask(
            """
            (async () => {
              const texts = [];
              for (const chart of document.querySelectorAll('.chart')) {
                for (let curve = 0; curve < chart.data.length; curve++) {
                  const {xaxis = 'x', yaxis = 'y'} = chart.data[curve];
                  const points = [{curveNumber: curve, pointNumber: 0}];
                  try { Plotly.Fx.hover(chart, points, xaxis + yaxis); } catch (error) { continue; }
                  await new Promise(done => setTimeout(done, 30));
                  texts.push(chart.querySelector('.hoverlayer').textContent);
                }
              }
              return texts;
            })()
            """
        )
        assert any(text for text in hovered)
        links = """
            [...document.querySelectorAll('a, [*|href]')]
                .map(a => a.getAttribute('href') ?? a.getAttribute('xlink:href'))
        """
        assert {
            link
            for link in chromium.ask(links)
            if link is not None and not link.startswith(("#", "data:image/png;"))
        } == set()
        shown = "document.querySelectorAll('main img, main b, main svg a, .chart [onload]')"
        assert chromium.ask(f"[...{shown}].map(element => element.outerHTML)") == []
        for selector in (
            "#scores .ytick text",
            "#distances .gtitle",
            "#tied .ytick text",
            "#clusters .ytick text",
            "#sizes .legendtext",
        ):
            texts = chromium.ask(
                f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)"
            )
            assert any(ALL in text for text in texts), selector
        for link in range(chromium.ask("document.querySelectorAll('nav a').length")):
            chromium.ask(f"document.querySelectorAll('nav a')[{link}].click()")
        assert chromium.ask("did") == []
        assert {url for url in chromium.loaded if not url.startswith(("data:", "blob:"))} <= {
            path.as_uri(), *(f"{path.as_uri()}#{a}" for a in ("table", "runs", "failures")),
        }  # fmt: skip
        assert chromium.complaints == []


def test_ties_in_the_heat_map_of_distances():
    figure = distance_heatmap({ATTACKS["link"]: [1.0], ATTACKS["bold"]: [0.5]})
    assert not {"<", ">"} & set("".join(figure.data[0].y))


@pytest.fixture
def no_page(monkeypatch):
    """Drawing the page takes seconds, and tests above read it."""
    monkeypatch.setattr(_write, "page", lambda *_: "")


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("attack", ["terminal", "markup"])
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--baseline", "nobody\x1b[2J"]])
def test_no_name_commands_the_terminal(hostile, capsys, attack, arguments):
    directory = hostile(ATTACKS[attack])
    folder = directory.with_name("dir\x1b[31m\x9bm")
    directory.rename(folder)
    (folder / "run\x1b[2J" / ".hydra").mkdir(parents=True)
    main(["compare", str(folder), *arguments])
    out, err = capsys.readouterr()
    assert out or err
    for line in (out + err).split("\n"):
        assert line.isprintable(), ascii(line)
    if attack == "markup" and not arguments:
        assert ATTACKS[attack] in "".join(out.split("\n"))
    if arguments == ["--json"]:
        assert json.loads(out)["rows"][0]["data"] == ATTACKS[attack]


@pytest.mark.usefixtures("no_page")
def test_no_name_commands_the_terminal_at_the_end_of_a_sweep(hostile, capsys):
    from omegaconf import OmegaConf

    directory = hostile(ATTACKS["terminal"])
    CompareRuns().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(directory)}}}))
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))


@pytest.mark.usefixtures("no_page")
def test_the_picture_of_the_table_is_a_picture(hostile, tmp_path, capsys):
    from xml.etree import ElementTree

    directory = hostile(ALL + ATTACKS["terminal"])
    assert main(["compare", str(directory), "--svg", str(tmp_path / "table.svg")]) == 0
    tree = ElementTree.parse(tmp_path / "table.svg")
    assert {element.tag.rpartition("}")[2] for element in tree.iter()} <= {
        "svg", "style", "defs", "clipPath", "rect", "text", "g", "circle",
    }  # fmt: skip


def test_a_table_on_a_terminal_with_colours(hostile):
    comparison = compare(read_results([hostile(ATTACKS["terminal"])]))
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(comparison)
    assert "\x9b" not in console.file.getvalue()
    assert "\x1b]0" not in console.file.getvalue()


@pytest.mark.parametrize(
    "cell",
    ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", '"a",b\r\nc', "=HYPERLINK(1)"],
)
def test_cells_of_the_csv_are_what_was_named(hostile, cell, tmp_path):
    """Programs read the file: formulas of spreadsheets are kept, as `to_csv` documents."""
    directory = hostile(cell)
    comparison = compare(read_results([directory]))
    file = tmp_path / "results.csv"
    comparison.to_csv(file)
    with file.open(newline="", encoding="utf-8") as lines:
        found = list(csv.DictReader(lines))
    assert len(found) == len(comparison.rows)
    assert {line["data"] for line in found} == {cell}
    assert cell in {line["strategy"] for line in found}
    assert "formula" in (type(comparison).to_csv.__doc__ or "")
