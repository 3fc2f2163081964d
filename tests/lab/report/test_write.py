import csv
import json
import math
from dataclasses import replace

import pytest

from lit_share.lab.report import advise, compare, write_report
from lit_share.lab.results import read_results


def test_three_files(sweep, tmp_path):
    comparison = compare(read_results([sweep]))
    files = write_report(comparison, tmp_path / "new" / "out")
    assert [file.name for file in files] == ["report.html", "results.csv", "results.json"]
    assert all(file.parent == tmp_path / "new" / "out" for file in files)
    with files[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    content = json.loads(files[2].read_text())
    assert len(lines) == len(content["rows"]) == len(comparison.rows) == 4
    assert [float(line["mean"]) for line in lines] == [row["mean"] for row in content["rows"]]
    assert [row["setting"]["data.n_b"] for row in content["rows"]] == ["20", "20", "50", "50"]


def test_runs_can_be_found_from_the_file(sweep):
    _, _, file = write_report(compare(read_results([sweep])), sweep)
    content = json.loads(file.read_text())
    run = content["rows"][1]["runs"][2]
    assert (run["strategy"], run["seed"], run["strength"]) == ("soft_tie", 2, 0.1)
    result = json.loads((sweep / run["path"]).read_text())
    assert result["test"][content["metric"]] == run["score"]
    assert result["validation"][content["objective"]] == run["objective"]
    assert result["overrides"] == run["overrides"]


def test_the_advice(sweep):
    comparison = compare(read_results([sweep]))
    _, _, file = write_report(comparison, sweep)
    advice = json.loads(file.read_text())["advice"]
    assert [(entry["setting"], entry["sentences"]) for entry in advice] == advise(comparison)
    assert [entry["setting"] for entry in advice] == ["data.n_b=20", "data.n_b=50"]


def test_failures(sweep):
    first, *others = read_results([sweep])
    _, _, file = write_report(
        compare([replace(first, status="failed", error="a\nb"), *others]), sweep
    )
    (failure,) = json.loads(file.read_text())["failures"]
    assert failure["error"] == "a\nb"


def test_json_that_all_programs_can_read(sweep):
    results = [replace(r, test={"b/test/acc": math.nan}) for r in read_results([sweep])]

    def refuse(constant):
        raise AssertionError(constant)

    _, _, file = write_report(compare(results), sweep)
    assert json.loads(file.read_text(), parse_constant=refuse)["rows"][0]["mean"] is None


def test_a_directory_that_is_a_file(sweep, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(OSError, match="x"):
        write_report(compare(read_results([sweep])), tmp_path / "x")
