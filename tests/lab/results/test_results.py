import json
import math
from dataclasses import fields

import pytest

from lit_share.lab.results import Result, read_results, unfinished_runs


def test_reads_recursively(tmp_path, write):
    write(tmp_path / "a", "soft_tie", seed=3, strength=0.1, val=0.75)
    write(tmp_path / "b" / "deep" / "er", "none")
    first, second = read_results([tmp_path])
    assert (first.strategy, first.seed, first.strength, first.validation["b/val/acc"]) == (
        "soft_tie",
        3,
        0.1,
        0.75,
    )
    assert first.path == tmp_path / "a" / "result.json"
    assert first.sharing["unique"] == 100
    assert first.failure is None
    assert second.strategy == "none"


def test_a_file_found_twice_is_read_once(tmp_path, write):
    write(tmp_path / "a")
    assert len(read_results([tmp_path, str(tmp_path / "a"), tmp_path / "a" / ".." / "a"])) == 1


def test_a_failed_run_needs_little(tmp_path, write):
    facts = {"schema": 1, "status": "failed", "error": "OSError: full", "strategy": "l2", "seed": 0}
    (tmp_path / "result.json").write_text(
        json.dumps({**facts, "objective": "val/loss", "mode": "min", "later": 1})
    )
    (result,) = read_results([tmp_path])
    assert result.failure == "OSError: full"
    assert result.seconds is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_run_is_a_failure(tmp_path, write, value):
    write(tmp_path, val=value)
    (result,) = read_results([tmp_path])
    assert result.failure == f"b/val/acc is {value}"


def test_a_run_without_its_objective_is_a_failure(tmp_path, write):
    write(tmp_path, validation={"b/val/loss": 1.0})
    (result,) = read_results([tmp_path])
    assert result.failure == "no b/val/acc among the validation metrics: b/val/loss"


def test_an_objective_of_test_data_is_not_taken(tmp_path, write):
    write(tmp_path, objective="b/test/acc")
    (result,) = read_results([tmp_path])
    assert result.failure.startswith("no b/test/acc among the validation metrics")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "not a mapping"),
        ("3", "not a mapping"),
        ("{}", "schema: "),
        ('{"loss": 1}\n{"loss": 2}', "Extra data"),
    ],
)
def test_a_foreign_file_is_named(tmp_path, content, reason):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result.json is not the result of a run") as error:
        read_results([tmp_path])
    assert str(tmp_path / "result.json") in str(error.value)
    assert reason in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"result.json is not the result of a run"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("status", "running"),
        ("mode", "best"),
        ("seed", "x"),
        ("validation", {"b/val/acc": "high"}),
    ],
)
def test_a_wrong_value_is_named(tmp_path, write, key, value):
    write(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=rf"result.json is not the result of a run \({key}"):
        read_results([tmp_path])


def test_a_directory_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere"):
        read_results([tmp_path / "nowhere"])


def test_unfinished_runs(tmp_path, write):
    for name in ("done", "killed"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    write(tmp_path / "done")
    assert unfinished_runs([tmp_path]) == [tmp_path / "killed"]


def test_results_of_older_versions_have_no_distances(tmp_path, write):
    write(tmp_path)
    (result,) = read_results([tmp_path])
    assert (result.distances, result.tied, result.training_bytes) == ({}, {}, None)
    assert result.clusters == {}


def test_what_runs_leave_for_charts(tmp_path, write):
    write(tmp_path, distances={"w": [1.0, 0.5]}, tied={"w": 0.25}, training_bytes=400)
    (result,) = read_results([tmp_path])
    assert (result.distances, result.tied, result.training_bytes) == (
        {"w": [1.0, 0.5]},
        {"w": 0.25},
        400,
    )


@pytest.mark.parametrize(
    ("cells", "earlier"),
    [
        ('{"0": {"earlier": true}, "1": {"earlier": false}}', [True, False]),
        ('{"0": {"overrides": []}}', [False, False]),  # of an older version
        ('{"0": {"earl', [False, False]),
        ("[]", [False, False]),
        ('{"0": 3}', [False, False]),
    ],
)
def test_cells_of_an_earlier_command(tmp_path, write, cells, earlier):
    for folder in "01":
        write(tmp_path / folder, status="failed", error="no")
    (tmp_path / "cells.json").write_text(cells)
    found = read_results([tmp_path])
    assert [result.earlier for result in found] == earlier
    assert [result.failure for result in found] == [
        "in an earlier command: no" if e else "no" for e in earlier
    ]


def test_what_is_written_is_what_is_read(tmp_path):
    written = Result(
        tmp_path / "result.json", 1, "finished", "soft_tie", 3, "b/val/acc", "max", data="digits",
        ties="all", model="mlp", tune=["ties"], overrides=["seed=3"], strength=0.1,
        validation={"b/val/acc": 0.5}, test={"b/test/acc": 0.25},
        sharing={"penalty": 0.5, "distance": None}, rows=[{"name": "a"}], seconds=1.5,
        checkpoint="last.ckpt", tied={"weight": 0.5}, training_bytes=12,
        clusters={"weight": {"a.weight": 0, "b.weight": 1, "c.weight": 0}},
        distances={"weight": [1.0, 0.5]}, strengths={"weight": [0.1, 0.2]}, epochs=2,
        course=[0.25, 0.5], layers={"a.head": ["a.head.*"]},
        strength_path={"chosen": 1}, better={"b/test/acc": "max"}, commit="0123456789ab",
        started="2026-01-31T12:00:00+00:00", versions={"torch": "2.13.0"},
    )  # fmt: skip
    empty = {f.name for f in fields(Result) if not getattr(written, f.name)}
    assert empty == {"error", "earlier"}
    written.write()
    assert read_results([tmp_path]) == [written]
