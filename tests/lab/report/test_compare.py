import csv
import math
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from lit_share.lab.report import advise, compare
from lit_share.lab.results import Result

DASH = "\N{EN DASH}"
same_in_every_run = settings(derandomize=True, database=None, deadline=None)


def run(strategy="none", seed=0, val=0.5, test=0.5, strength=None, **keywords):
    facts = {
        "data": "digits",
        "ties": "all",
        "model": "mlp",
        "validation": {"b/val/acc": val},
        "test": {"b/test/acc": test, "a/test/acc": 1.0},
        "sharing": {"distance": 2.0, "unique": 100},
        "seconds": 10.0,
    }
    path = Path("runs", f"{strategy}-{seed}-{strength}", "result.json")
    return Result(
        path,
        1,
        "finished",
        strategy,
        seed,
        "b/val/acc",
        "max",
        strength=strength,
        **{**facts, **keywords},
    )


def rows(results, **keywords):
    return {row.strategy: row for row in compare(results, **keywords).rows}


def printed(comparison, width=160):
    file = StringIO()
    Console(file=file, width=width).print(comparison)
    return file.getvalue()


def test_by_hand():
    none = [run("none", seed, test=test) for seed, test in enumerate([0.5, 0.6, 0.7])]
    soft = [
        run("soft_tie", seed, test=test, strength=0.1) for seed, test in enumerate([0.6, 0.8, 1.0])
    ]
    row = rows(none + soft)["soft_tie"]
    assert (row.score.n, row.failed, row.strength) == (3, 0, 0.1)
    assert row.score.mean == pytest.approx(0.8)
    assert row.score.margin == pytest.approx(4.302653 * 0.2 / math.sqrt(3), abs=1e-6)
    # the differences are 0.1, 0.2, 0.3
    assert row.difference.mean == pytest.approx(0.2)
    assert row.difference.margin == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6)


@same_in_every_run
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=10).filter(
        lambda pairs: len({round(a - b, 6) for a, b in pairs}) > 1
    )
)
def test_the_difference_is_scipys_paired_interval(pairs):
    a, b = zip(*pairs, strict=True)
    results = [run("l2", seed, test=test) for seed, test in enumerate(a)]
    results += [run("none", seed, test=test) for seed, test in enumerate(b)]
    difference = rows(results)["l2"].difference
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert difference.low == pytest.approx(expected.low, abs=1e-9)
    assert difference.high == pytest.approx(expected.high, abs=1e-9)


def test_strengths_are_chosen_per_seed_on_validation_never_on_test():
    results = [
        run("l2", 0, val=0.7, test=0.1, strength=0.1),
        run("l2", 0, val=0.6, test=1.0, strength=1.0),
        run("l2", 1, val=0.6, test=1.0, strength=0.1),
        run("l2", 1, val=0.7, test=0.3, strength=1.0),
    ]
    row = rows(results)["l2"]
    assert row.score.mean == pytest.approx(0.2)
    assert row.strength == pytest.approx(0.55)


@same_in_every_run
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12
    ),
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_test_metrics_choose_nothing(cells, others):
    results = [run("l2", seed, val=val, strength=strength) for seed, val, strength in cells]
    changed = [
        replace(r, test={"b/test/acc": test}) for r, test in zip(results, others, strict=False)
    ]
    assert rows(results)["l2"].strength == rows(changed)["l2"].strength


def test_a_small_objective():
    results = [
        replace(run("l2", 0, val=val, test=test, strength=strength), mode="min")
        for val, test, strength in [(1.0, 0.1, 0.1), (0.5, 0.2, 1.0)]
    ]
    assert rows(results)["l2"].strength == 1.0


@pytest.mark.parametrize("strengths", [(0.1, 1.0, 10.0), (10.0, 1.0, 0.1), (1.0, 0.1, 10.0)])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_equal_validation_takes_the_smaller_strength(strengths, mode):
    results = [replace(run("l2", val=0.5, strength=s), mode=mode) for s in strengths]
    assert rows(results)["l2"].strength == 0.1


@same_in_every_run
@given(st.permutations(range(8)))
def test_the_order_of_results_does_not_matter(order):
    results = [
        run(strategy, seed, val=val, test=val / 3, strength=val)
        for strategy in ("none", "l2")
        for seed in (0, 1)
        for val in (0.3, 0.4)
    ]
    assert compare([results[i] for i in order]).rows == compare(results).rows


def test_the_difference_is_over_common_seeds():
    results = [run("none", seed, test=0.1 * seed) for seed in (0, 1, 2)]
    results += [run("l2", seed, test=0.1 * seed + 0.05) for seed in (1, 2, 3, 4)]
    row = rows(results)["l2"]
    assert row.score.n == 4
    assert (row.difference.n, row.difference.mean) == (2, pytest.approx(0.05))
    assert f"{row.difference} (n=2)" in printed(compare(results))


def test_one_seed_has_no_interval():
    comparison = compare([run("none", test=0.25), run("l2", test=0.5)])
    text = printed(comparison)
    assert f"0.5 ± {DASH}" in text
    assert f"0.25 ± {DASH}" in text
    assert "nan" not in text.lower()


def test_without_none_there_is_no_difference():
    assert rows([run("l2"), run("l2", 1)])["l2"].difference is None
    assert rows([run("none"), run("l2", 1)])["l2"].difference is None


def test_failed_runs_are_counted_and_shown():
    results = [
        run("none"),
        run("none", 1),
        run("l2", strength=0.1, val=0.4),
        run("l2", strength=1.0, val=math.nan),
        replace(run("l2", 1), status="failed", error="MemoryError: [too] large\nand more"),
        replace(
            run("growl", 0),
            status="failed",
            error="MemoryError: [too] large",
            validation={},
            test={},
        ),
    ]
    comparison = compare(results)
    table = {row.strategy: row for row in comparison.rows}
    assert (table["l2"].failed, table["l2"].score.n, table["l2"].strength) == (2, 1, 0.1)
    assert (table["growl"].failed, table["growl"].score, table["growl"].unique) == (1, None, None)
    assert len(comparison.failures) == 3
    text = printed(comparison)
    assert "2 failed: MemoryError: [too] large (runs/l2-1-None, runs/growl-0-None)" in text
    assert "1 failed: b/val/acc is nan (runs/l2-0-1.0)" in text


def test_all_runs_failed():
    comparison = compare([replace(run("l2"), status="failed", error="x")])
    assert comparison.rows[0].score is None
    assert comparison.metric == "b/test/acc"
    printed(comparison)


def test_a_test_metric_that_is_not_finite_is_shown():
    text = printed(compare([run("none", test=math.nan)]))
    assert f"nan ± {DASH}" in text


def test_means_and_medians():
    results = [
        run(
            "l2",
            seed,
            strength=strength,
            seconds=seconds,
            sharing={"distance": distance, "unique": unique},
        )
        for seed, (strength, seconds, distance, unique) in enumerate(
            [(0.1, 1.0, 2.0, 10), (1.0, 2.0, None, 20), (0.2, 6.0, 4.0, 30)]
        )
    ]
    row = rows(results)["l2"]
    assert (row.strength, row.seconds, row.distance, row.unique) == (0.2, 3.0, 3.0, 20)


def test_data_models_and_ties_are_compared_apart():
    results = [
        run(strategy, test=test + (data == "mnist"), data=data)
        for data in ("digits", "mnist")
        for strategy, test in (("none", 0.1), ("l2", 0.4))
    ]
    comparison = compare(results)
    assert [(row.data, row.strategy) for row in comparison.rows] == [
        ("digits", "none"),
        ("digits", "l2"),
        ("mnist", "none"),
        ("mnist", "l2"),
    ]
    assert [row.difference and row.difference.mean for row in comparison.rows] == [
        None,
        pytest.approx(0.3),
        None,
        pytest.approx(0.3),
    ]
    text = printed(comparison)
    assert " data " in text
    assert " model " not in text
    assert " ties " not in text


def test_none_stands_for_all_ties():
    results = [
        run("none", ties="all", test=0.1),
        run("l2", ties="head", test=0.4),
        run("l2", ties="all", test=0.2),
    ]
    differences = {
        row.ties: row.difference.mean for row in compare(results).rows if row.strategy == "l2"
    }
    assert differences == {"head": pytest.approx(0.3), "all": pytest.approx(0.1)}
    results.append(run("none", ties="head", test=0.2))
    differences = {
        row.ties: row.difference.mean for row in compare(results).rows if row.strategy == "l2"
    }
    assert differences == {"head": pytest.approx(0.2), "all": pytest.approx(0.1)}


def test_none_stands_for_all_that_ties_exclude():
    excluded = ["ties.exclude=[]", "ties.exclude=[*.bias]"]
    results = [run("none", test=0.1, overrides=[excluded[0]])]
    results += [run("l2", test=0.2 + i / 10, overrides=[e]) for i, e in enumerate(excluded)]
    comparison = compare(results)
    found = {row.ties: row.difference.mean for row in comparison.rows if row.strategy == "l2"}
    assert found == {
        "all ties.exclude=[]": pytest.approx(0.1),
        "all ties.exclude=[*.bias]": pytest.approx(0.2),
    }
    # They are alternatives for one setting.
    assert len(advise(comparison)) == 1


def test_none_of_other_data_is_no_baseline():
    assert rows([run("none", data="mnist"), run("l2")])["l2"].difference is None


@pytest.mark.parametrize(
    ("objective", "metric"),
    [
        ("b/val/acc", "b/test/acc"),
        ("val_loss", "test_loss"),
        ("val/interval", "test/interval"),
        ("eval", "eval"),
    ],
)
def test_the_default_metric(objective, metric):
    result = replace(run(), objective=objective, validation={objective: 1.0}, test={metric: 0.25})
    assert compare([result]).metric == metric
    assert compare([result]).rows[0].score.mean == 0.25


def test_another_metric():
    assert rows([run()], metric="a/test/acc")["none"].score.mean == 1.0


def test_an_unknown_metric():
    with pytest.raises(
        ValueError,
        match=r"no test metric 'b/test/ac' in runs.none-0-None.result.json: did you mean",
    ):
        compare([run()], metric="b/test/ac")
    with pytest.raises(ValueError, match="it has none"):
        compare([run(test=0.5, seconds=1.0), replace(run(seed=1), test={})])


def test_different_objectives():
    other = replace(run(seed=1), objective="a/val/acc", validation={"a/val/acc": 1.0})
    with pytest.raises(
        ValueError,
        match=r"b/val/acc \(max\) in runs.none-0.*, but a/val/acc \(max\) in runs.none-1",
    ):
        compare([run(), other])
    with pytest.raises(ValueError, match="different objectives"):
        compare([run(), replace(run(seed=1), mode="min")])


def test_no_results():
    with pytest.raises(ValueError, match="no results"):
        compare([])


def test_csv(tmp_path):
    results = [run("none", seed, test=test) for seed, test in enumerate([0.5, 0.7])]
    results += [run("growl+l2", 0, test=0.75, strength=0.1), replace(run("x"), status="failed")]
    compare(results).to_csv(tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        none, growl, x = csv.DictReader(file)
    assert (none["data"], none["model"], none["ties"], none["metric"]) == (
        "digits",
        "mlp",
        "all",
        "b/test/acc",
    )
    assert float(none["mean"]) == pytest.approx(0.6)
    low, high = stats.t.interval(0.95, 1, 0.6, stats.sem([0.5, 0.7]))
    assert (float(none["low"]), float(none["high"])) == (pytest.approx(low), pytest.approx(high))
    assert (none["n"], none["pairs"], none["difference"]) == ("2", "0", "")
    assert (growl["strategy"], growl["strength"], growl["pairs"], growl["difference"]) == (
        "growl+l2",
        "0.1",
        "1",
        "0.25",
    )
    assert (growl["low"], growl["difference_low"]) == ("", "")
    assert (x["n"], x["failed"], x["mean"]) == ("0", "1", "")


def test_names_are_not_read_as_markup():
    assert "[red]x" in printed(compare([run("[red]x")]))


def test_other_overrides_are_other_experiments():
    results = [
        run(
            strategy,
            seed=seed,
            test=test + 0.1 * seed,
            overrides=[f"data.n_b={n}", f"regularizer={strategy}", f"seed={seed}"],
        )
        for n, base in ((20, 0.3), (100, 0.6))
        for strategy, test in (("none", base), ("l2", base + 0.05))
        for seed in (0, 1)
    ]
    found = {(row.overrides, row.strategy): row for row in compare(results).rows}
    assert set(found) == {
        (f"data.n_b={n}", strategy) for n in (20, 100) for strategy in ("none", "l2")
    }
    assert all(row.score.n == 2 for row in found.values())
    assert found["data.n_b=20", "l2"].difference.mean == pytest.approx(0.05)


def test_tuning_a_strategy_is_not_another_experiment():
    results = [
        run(
            "l2",
            val=val,
            test=val,
            overrides=["regularizer=l2", f"regularizer.l2.strength={val}", "hydra.run.dir=x"],
        )
        for val in (0.1, 0.9)
    ]
    (row,) = compare(results).rows
    assert row.score.mean == 0.9


def patterns(tune=()):
    """Validation selects the head for seed 0, everything for seeds 1 and 2; tests disagree."""
    vals = {"all": (0.1, 0.9, 0.9), "head": (0.9, 0.1, 0.1)}
    return [
        run(
            "hard_tie",
            seed,
            val=val,
            test=1.0 - val,
            ties=ties,
            overrides=[f"ties={ties}"],
            tune=list(tune),
        )
        for ties, of_seeds in vals.items()
        for seed, val in enumerate(of_seeds)
    ]


def test_ties_are_compared_unless_they_are_tuned():
    assert [(row.ties, row.tuned) for row in compare(patterns()).rows] == [
        ("all", ""),
        ("head", ""),
    ]
    for comparison in (compare(patterns(tune=["ties"])), compare(patterns(), tune=["ties"])):
        (row,) = comparison.rows
        assert (row.ties, row.tuned) == (None, "ties=all (2), head (1)")
        assert row.score.mean == pytest.approx(0.1)
        assert comparison.records()[0]["tuned"] == row.tuned
        assert "ties=all (2), head (1)" in printed(comparison)
    assert "tuned" not in printed(compare(patterns()))


def test_the_baseline_of_tuned_ties_has_all_of_them():
    none = [run("none", seed, test=0.05, ties="all", overrides=["ties=all"]) for seed in range(3)]
    row = rows([*patterns(), *none], tune=["ties"])["hard_tie"]
    assert row.difference.n == 3
    assert row.difference.mean == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("seed", "tune=seed: that would be choosing the luckiest run; leave it out"),
        ("tise", "tune=tise: no run was started with tise=...: did you mean 'ties'?"),
    ],
)
def test_what_cannot_be_tuned(key, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compare(patterns(), tune=[key])


def test_numbers_in_overrides_are_sorted_as_numbers():
    results = [run("none", overrides=[f"data.n_b={n}"]) for n in ("150", "20", "1e3", "0.5")]
    assert [row.overrides for row in compare(results).rows] == [
        f"data.n_b={n}" for n in ("0.5", "20", "150", "1e3")
    ]


def test_rows_know_their_runs():
    results = [
        run("l2", seed, val=strength, strength=strength)
        for seed in (1, 0)
        for strength in (0.1, 0.9)
    ]
    failed = replace(run("l2", 2), status="failed")
    (row,) = compare([*results, failed]).rows
    assert [(r.seed, r.strength) for r in row.runs] == [(0, 0.9), (1, 0.9)]
    assert len(row.tried) == 5


def test_sizes():
    results = [
        run("l2", seed, sharing={"unique": 10, "bytes": size}, training_bytes=2 * size)
        for seed, size in enumerate((100, 200))
    ]
    (row,) = compare(results).rows
    assert (row.bytes, row.training_bytes) == (150, 300)


@pytest.mark.parametrize(
    ("metric", "better"),
    [(None, "max"), ("a/test/acc", "max"), ("b/test/loss", None), ("a/test/acc_top5", None)],
)
def test_what_is_good_is_known_of_the_objective_only(metric, better):
    test = dict.fromkeys(("b/test/acc", "a/test/acc", "b/test/loss", "a/test/acc_top5"), 0.5)
    assert compare([replace(run(), test=test)], metric).better == better


def test_what_failed_in_an_earlier_command_is_listed_but_no_row():
    wrong = ["data.n_b=100000"]
    misspelt = {
        "status": "failed",
        "error": "no",
        "objective": "b/val/accuracy",
        "overrides": wrong,
    }
    failed = replace(run(earlier=True), **misspelt)
    comparison = compare([failed, run(overrides=["data.n_b=20"])])
    assert [row.overrides for row in comparison.rows] == ["data.n_b=20"]
    assert comparison.failures == (failed,)
    assert "1 failed: in an earlier command: no (runs/none-0-None)" in printed(comparison)
    assert [row.failed for row in compare([failed]).rows] == [1]  # rather than no table at all
    finished = compare(
        [run(earlier=True, overrides=["data.n_b=50"]), run(overrides=["data.n_b=20"])]
    )
    assert len(finished.rows) == 2


def test_what_is_common_to_all_rows_is_said_once():
    common = ["data.n_a=500", "+trainer.max_epochs=3", "~model.dropout"]
    results = [run(overrides=[*common, f"data.n_b={n}", f"data.noise={n}"]) for n in (20, 50)]
    text = printed(compare(results))
    assert text.count("data.n_a=500") == text.count("max_epochs") == text.count("ties=all") == 1
    assert (
        "all with data=digits, model=mlp, ties=all, trainer.max_epochs=3, data.n_a=500, "
        "~model.dropout" in text
    )
    assert "data.n_b=20, data.noise=20" in text
    text = printed(compare([run(data="digits"), run(data="mnist")]))
    assert "all with model=mlp, ties=all\n" in text
    assert "overrides" not in text


def test_pruned_runs_are_counted_and_not_compared():
    pruned = replace(run("l2", val=0.9, strength=0.1), status="pruned", validation={}, test={})
    comparison = compare([run("l2", strength=1.0), pruned])
    (row,) = comparison.rows
    assert [tried.strength for tried in row.tried] == [1.0]
    assert (comparison.pruned, comparison.failures) == (1, ())
    console = Console(width=200)
    with console.capture() as capture:
        console.print(comparison)
    assert "not compared, as a search or a race pruned them: 1" in capture.get()


def test_nothing_but_pruned_runs():
    with pytest.raises(ValueError, match="there are no results to compare"):
        compare([replace(run("l2"), status="pruned")])
