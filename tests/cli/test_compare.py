"""`lit-share compare`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from lit_share.lab.cli import main

FILES = ("report.html", "results.csv", "results.json")


@pytest.fixture
def result():
    """Writes a `result.json` as a run does."""

    def result(directory, strategy="none", seed=0, test=0.5, **keywords):
        content = {
            "schema": 1,
            "status": "finished",
            "strategy": strategy,
            "seed": seed,
            "objective": "b/val/acc",
            "mode": "max",
            "validation": {"b/val/acc": 0.5},
            "test": {"a/test/acc": 0.9, "b/test/acc": test},
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "result.json").write_text(json.dumps(content | keywords))

    return result


def test_table_and_files(run, tmp_path, result):
    result(tmp_path / "0")
    result(tmp_path / "1", "soft_tie", test=0.75, strength=0.1)
    code, out, err = run("compare", tmp_path)
    assert (code, err) == (0, "")
    assert "soft_tie" in out
    assert "− none" in out
    assert f"written: {', '.join(str(tmp_path / name) for name in FILES)}" in out
    assert all((tmp_path / name).exists() for name in FILES)


def test_the_advice_follows_the_table(run, tmp_path, result):
    for seed, test in enumerate([0.50, 0.55, 0.52]):
        result(tmp_path / f"a{seed}", "none", seed, test)
        result(tmp_path / f"b{seed}", "hard_tie", seed, test + 0.1 + 0.01 * (seed % 2))
    _, out, _ = run("compare", tmp_path)
    *_, use, worth, undecided, written = out.splitlines()
    assert use == "Use `hard_tie`: it is better than `none` on test data."
    assert worth.startswith("Compared with `none`, it raises `b/test/acc` by 10.3 ± 1.4 points")
    assert undecided.startswith("There is nothing to tell it from: ")
    assert written.startswith("written: ")


def test_the_advice_of_each_setting(run, tmp_path, result):
    for n in (20, 100):
        result(tmp_path / str(n), overrides=[f"data.n_b={n}"])
    _, out, _ = run("compare", tmp_path)
    first, second = (out.splitlines().index(f"data.n_b={n}:") for n in (20, 100))
    advice = "No advice: only `none` has finished; run strategies with the same seeds."
    assert out.splitlines()[first : second + 2] == [
        *("data.n_b=20:", advice, ""),
        *("data.n_b=100:", advice),
    ]


def test_out(run, tmp_path, result):
    result(tmp_path / "runs")
    code, *_ = run("compare", tmp_path / "runs", "--out", tmp_path / "new" / "out")
    assert code == 0
    assert sorted(file.name for file in (tmp_path / "new" / "out").iterdir()) == sorted(FILES)
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["all/a", "all/b"],
        ["all", "--metric", "a/test/acc"],
        ["all", "--baseline", "l2"],
        ["all", "--tune", "lr", "--tune", "ties"],
        ["all", "--tune", "lr,ties"],
    ],
)
def test_the_page_of_a_sweep_is_not_overwritten_by_another_comparison(
    run, tmp_path, result, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    result(tmp_path / "all" / "a" / "0")
    result(tmp_path / "all" / "b" / "0", "l2", overrides=["lr=0.1", "ties=all"])
    code, out, _ = run("compare", *arguments)
    assert code == 0
    assert "no page was written: say where with --out DIR" in out
    assert not list(tmp_path.rglob("report.html"))
    assert run("compare", *arguments, "--out", "page")[0] == 0
    assert (tmp_path / "page" / "report.html").exists()


def test_again(run, tmp_path, result):
    result(tmp_path / "0")
    run("compare", tmp_path)
    result(tmp_path / "1", "l2")
    run("compare", tmp_path)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3


def test_metric_and_baseline(run, tmp_path, result):
    result(tmp_path / "0", test=0.5)
    result(tmp_path / "1", "hard_tie", test=0.75)
    _, out, _ = run("compare", tmp_path, "--baseline", "hard_tie")
    assert "− hard_tie" in out
    assert "-0.25 ± " in out
    _, out, _ = run("compare", tmp_path, "--metric", "a/test/acc", "--out", tmp_path / "page")
    assert "a/test/acc" in out
    with (tmp_path / "page" / "results.csv").open(newline="") as file:
        assert {line["metric"] for line in csv.DictReader(file)} == {"a/test/acc"}


def test_json(run, tmp_path, result):
    result(tmp_path / "0", "<b>")
    code, out, err = run("compare", tmp_path, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content == json.loads((tmp_path / "results.json").read_text())
    assert content["rows"][0]["runs"][0]["path"] == "0/result.json"


def test_picture(run, tmp_path, result):
    result(tmp_path / "0", "soft_tie")
    assert run("compare", tmp_path, "--svg", tmp_path / "table.svg")[0] == 0
    picture = (tmp_path / "table.svg").read_text()
    assert picture.startswith("<svg")
    assert "soft_tie" in picture
    assert "url(" not in picture.replace("url(#", "")


def test_failures_are_no_error_of_the_command(run, tmp_path, result):
    result(tmp_path / "0", status="failed", error="OSError: full\nmore", validation={})
    code, out, _ = run("compare", tmp_path)
    assert code == 0
    assert "1 failed: OSError: full" in out
    assert "OSError: full" in (tmp_path / "report.html").read_text()


def test_runs_that_left_nothing_are_named(run, tmp_path, result):
    result(tmp_path / "0")
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    assert f"1 without a result.json: {tmp_path / '1'}" in run("compare", tmp_path)[1].replace(
        "\n", ""
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "no result.json below empty"),
        (["nowhere"], "no directory nowhere"),
        (["run", "nowhere"], "no directory nowhere"),
        (["run", "--metric", "b/test/ac"], "did you mean 'b/test/acc'?"),
        (["run", "--tune", "lr"], "tune=lr: no run was started with lr=..."),
        (["run", "--baseline", "l2"], "no run of the baseline 'l2': there are none"),
        (["run", "empty"], "no result.json below empty"),
        (["broken"], "is not the result of a run"),
        (
            ["run", "--out", "run/result.json"],
            "'run/result.json' is not a directory: give another --out",
        ),
        (["run/result.json"], "no directory run/result.json"),
    ],
)
def test_errors_have_code_2_and_one_line(
    refused, tmp_path, result, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    result(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    result(tmp_path / "broken", seed="x")
    assert message in refused("compare", *arguments)
    assert not list(tmp_path.rglob("report.html"))


@pytest.mark.parametrize("arguments", [["compare"], ["compare", "x", "--out"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: lit-share compare" in capsys.readouterr().err


def test_without_torch(tmp_path, result):
    result(tmp_path)
    code = (
        "import sys\n"
        "from lit_share.lab.cli import main\n"
        f"assert main(['compare', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'lightning'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "b/test/acc" in done.stdout
