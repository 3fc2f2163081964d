import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lit_share.lab.report import advise, compare, page
from lit_share.lab.results import Result, read_results

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Parsed(HTMLParser):
    """Parses a page: tags with attributes, the text of each kind of tag, and unclosed tags."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text, self.scripts = [], [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
            return
        for tag in set(self.open):
            self.text[tag] = self.text.get(tag, "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def figures(self):
        return [
            json.loads(s)
            for s, a in zip(self.scripts, self.all("script"), strict=True)
            if "type" in a
        ]


@pytest.fixture
def results(sweep):
    return read_results([sweep])


def varied(results):
    """Results whose differences are not the same in all seeds."""
    return [
        replace(r, test={"b/test/acc": r.test["b/test/acc"] + 0.01 * (r.seed % 2)})
        if r.strategy == "soft_tie"
        else r
        for r in results
    ]


def parsed(results, **keywords):
    return Parsed(page(compare(results, **keywords)))


def test_it_has_all_parts(results):
    found = parsed(results)
    ids = [attributes["id"] for attributes in found.all("section")]
    assert ids == [
        "advice",
        "table",
        "metrics",
        "scores",
        "strengths",
        "paths",
        "sizes",
        "curves",
        "distances",
        "learned",
        "tied",
        "clusters",
        "costs",
        "runs",
    ]
    for link in found.all("a"):
        assert link["href"].removeprefix("#") in ids
    # two settings of scores, strengths, sizes, tied; one curve; two ties and three costs of each
    # setting
    assert (
        len(found.figures)
        == len([a for a in found.all("div") if a.get("class") == "chart"])
        == 2 * 4 + 1 + 4 + 6
    )


def small(**keywords):
    """Ten runs of three models whose metrics are errors, with the strongest penalty the best."""

    def run(strategy, seed, gain, **own):
        test = {f"{name}/test/mse": 1 + i + 0.1 * seed - gain for i, name in enumerate("abc")}
        test["c/test/mse"] += 2 * gain
        head = (Path(f"{strategy}{seed}", "result.json"), 1, "finished", strategy, seed)
        validation = {"a/val/mse": 1 - gain}
        return Result(
            *head, "a/val/mse", "min", validation=validation, test=test, **own, **keywords
        )

    none = [run("none", seed, 0.0) for seed in range(3)]
    tied = [
        run("soft_tie", seed, s * (0.1 + 0.001 * seed), strength=s)
        for seed in range(3)
        for s in (0.1, 1.0)
    ]
    return [*none, *tied]


def test_it_has_the_metrics_of_all_models():
    comparison = compare(small())
    assert comparison.of_all_models == ["a/test/mse", "b/test/mse", "c/test/mse"]
    text = " ".join(parsed(small()).text["table"].split())
    scores = comparison.rows[1].scores
    marks = {"a/test/mse": "↓", "b/test/mse": "↓", "c/test/mse": "↑"}
    for name, mark in marks.items():
        assert f"{scores[name].mean} {mark}" in text


def test_less_may_be_better():
    html = page(compare(small()))
    assert "the interval is below 0: better" in html
    assert "Less a/test/mse is better, so ↓ is an improvement." in html
    html = page(compare(small(), metric="c/test/mse"))
    assert "the interval is above 0: worse" in html


def test_the_end_of_the_grid_is_marked():
    comparison = compare(small())
    assert [row.at_end for row in comparison.rows] == ["", "max"]
    text = " ".join(parsed(small()).text["table"].split())
    assert "1 max" in text
    assert "max and min mark a strength at the end" in page(comparison)
    assert "max and min mark" not in page(compare([r for r in small() if r.strength != 1.0]))


def test_overrides_can_be_pasted_into_a_shell():
    html = page(compare(small(overrides=["ties.patterns=[a.*,b.*]", "x=1"])))
    assert "&#39;ties.patterns=[a.*,b.*]&#39; x=1" in html


def test_it_says_with_what_it_was_made():
    days = [{"started": f"2026-01-{day}T12:00:00+00:00"} for day in ("31", "30")]
    own = {"versions": {"torch": "2.13.0"}, "commit": "0123456789ab-dirty"}
    results = [run for day in days for run in small(**day, **own)[:1]]
    results = [replace(run, seed=i) for i, run in enumerate(results)]
    html = page(compare(results), title="My models")
    made = "Runs of 2026-01-30 to 2026-01-31 with torch 2.13.0, commit 0123456789ab-dirty."
    assert made in html
    assert "<h1>My models</h1>" in html
    assert "Made on " in page(compare(small()))
    assert "Runs of 2" not in page(compare(small()))


def test_the_table_has_the_numbers(results):
    comparison = compare(results)
    text = " ".join(parsed(results).text["table"].split())
    for row in comparison.rows:
        assert str(row.score) in text
    assert "data.n_b" in text
    difference = comparison.rows[1].difference
    assert f"{difference} ↑" in text


def test_the_advice_is_above_the_table(results):
    comparison = compare(varied(results))
    html = page(comparison)
    assert html.index('<section id="advice">') < html.index('<section id="table">')
    found = Parsed(html)
    for setting, sentences in advise(comparison):
        assert setting in found.text["h3"]
        assert len(sentences) >= 3
        for sentence in sentences:
            assert sentence.replace("`", "") in found.text["p"]
    assert "soft_tie" in found.text["code"]


def test_a_difference_whose_interval_holds_zero_is_not_marked(results):
    results = [
        replace(r, test={"b/test/acc": 0.5 + 0.1 * r.seed * (r.strategy == "none")})
        for r in results
    ]
    assert not {"↑", "↓"} & set(parsed(results).text["table"])


def test_it_asks_nobody(results):
    """No address is loaded, and the policy forbids it."""
    found = parsed(results)
    for tag, attributes in found.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert "src" not in attributes
    (policy,) = [
        a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "url(" not in found.text["style"]
    assert "@import" not in found.text["style"]


def test_only_its_own_scripts_run(results):
    found = parsed(results)
    programs = [
        s for s, a in zip(found.scripts, found.all("script"), strict=True) if "type" not in a
    ]
    hashes = {
        base64.b64encode(hashlib.sha256(program.encode()).digest()).decode() for program in programs
    }
    (policy,) = [
        a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert set(re.findall("'sha256-(.*?)'", policy)) == hashes
    assert len(hashes) == 2
    assert "script-src 'unsafe" not in policy


def test_for_phones_and_paper(results):
    found = parsed(results)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.all(
        "meta"
    )
    assert "@media print" in found.text["style"]
    assert "@media (max-width" in found.text["style"]


def test_charts_are_described(results):
    assert all(attributes["aria-label"] for attributes in parsed(results).all("figure"))


NASTY = """`</script><script>alert("x")</script><img src=x onerror='alert(1)'>&amp;{{ 7*7 }}%{y}"""


@pytest.fixture
def nasty(results):
    changed = [
        replace(
            r,
            strategy=NASTY if r.strategy == "soft_tie" else r.strategy,
            data=f"data{NASTY}",
            objective=f"val{NASTY}",
            validation={f"val{NASTY}": r.validation["b/val/acc"]},
            test={f"test{NASTY}": r.test["b/test/acc"]},
            overrides=[*r.overrides, f"x.{NASTY}={NASTY}", f"k.{NASTY}={r.seed % 2}"],
            distances={NASTY: [1.0, 0.5]},
            tied={NASTY: 0.5},
            clusters={NASTY: {f"a{NASTY}": 0, f"b{NASTY}": 0, f"c{NASTY}": 1}},
        )
        for r in results
    ]
    return [
        *changed,
        replace(changed[0], status="failed", error=f"Error: {NASTY}\nand \u2028 more"),
    ]


@pytest.mark.slow
def test_what_users_name_is_escaped(nasty, sweep):
    for directory in sweep.iterdir():
        (directory / "config.yaml").write_text(f"name: {NASTY}\n")
    found = parsed(nasty)
    assert len([a for a in found.all("script") if "type" not in a]) == 2
    assert found.all("img") == []
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    for tag in ("th", "code", "pre", "summary", "p"):
        assert NASTY in found.text[tag]
    assert all(
        "alert" not in json.dumps(a) or set(a) == {"aria-label"} or "aria-label" in a
        for _, a in found.tags
    )


@pytest.mark.slow
def test_what_users_name_is_no_tag_in_figures_either(nasty):
    html = page(compare(nasty))
    scripts = re.findall(r'<script type="application/json">(.*?)</script>', html, flags=re.DOTALL)
    assert len(scripts) > 5
    for script in scripts:
        assert not set("<>&\u2028") & set(script)
        shown = json.loads(script)
        text = json.dumps([shown["data"], shown["layout"].get("title")])
        assert "<script" not in text
        assert "<img" not in text


def test_the_config_of_the_first_seed_is_there(results):
    found = parsed(results)
    assert "seed: 0\nstrategy: soft_tie\n" in found.text["pre"]
    assert "seed: 1\n" not in found.text["pre"]
    assert "regularizer=soft_tie data.n_b=20 seed=2 strength=0.1" in found.text["table"]


def test_configs_that_are_gone(results, sweep):
    for file in sweep.glob("*/config.yaml"):
        file.unlink()
    found = parsed(results)
    assert "pre" not in found.text
    assert "There is no config.yaml beside the result of seed 0" in found.text["p"]


def test_paths_are_relative_to_the_page(results, sweep):
    html = page(compare(results), sweep)
    assert "<code>none-20-0-None</code>" in html
    assert str(sweep) not in html


def test_failures(results):
    failed = [
        replace(r, status="failed", error=f"OSError: {r.seed}\nmore")
        for r in results
        if r.seed == 2
    ]
    found = parsed([r for r in results if r.seed < 2] + failed)
    assert found.all("section")[-1]["id"] == "failures"
    assert "OSError: 2\nmore" in found.text["pre"]
    assert "6 failed" in " ".join(found.text["ul"].split())
    assert "pruned" not in found.text["ul"]


def test_pruned_runs_are_counted(results):
    pruned = [replace(r, status="pruned") for r in results if r.strength == 0.01]
    found = parsed([r for r in results if r.strength != 0.01] + pruned)
    assert "6 pruned" in " ".join(found.text["ul"].split())


def test_one_seed_has_no_interval(results):
    text = parsed([r for r in results if r.seed == 0]).text["table"]
    assert "± \N{EN DASH}" in text
    assert "nan" not in text.lower()


def test_one_strategy(results):
    assert parsed([r for r in results if r.strategy == "none"]).figures


def test_another_baseline(results):
    found = parsed(results, baseline="soft_tie")
    assert "difference to soft_tie" in found.text["th"]
    assert "↓" in found.text["table"]


def test_all_failed(results):
    found = parsed([replace(r, status="failed", error="x") for r in results])
    assert found.figures == []
    assert "No run has finished." in found.text["p"]


def test_metrics_that_are_not_finite(results):
    results = [replace(r, test={"b/test/acc": float("nan" if r.seed else "inf")}) for r in results]
    assert parsed(results).figures


def test_results_of_older_versions(results):
    old = [replace(r, distances={}, tied={}, training_bytes=None) for r in results]
    found = parsed(old)
    assert "No run has a history of distances" in found.text["p"]
    assert "Not measured by these runs: Memory for training." in found.text["p"]


def test_the_same_results_make_the_same_page(results):
    assert page(compare(results)) == page(compare(results))


def test_what_was_tuned_has_a_column(results):
    assert "tuned" not in parsed(results).text["th"]
    found = parsed([replace(r, tune=["data.n_b"]) for r in results])
    assert "tuned" in found.text["th"]
    assert "data.n_b=50" in found.text["table"]
