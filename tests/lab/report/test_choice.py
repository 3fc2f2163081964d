from pathlib import Path
from random import Random

import pytest
from scipy import stats

from lit_share.lab.report import compare
from lit_share.lab.report._choice import Contrast, choose, contrast_all
from lit_share.lab.results import Result


def rows(tests, validations=None, unique=None):
    """The rows of strategies, by their test scores of seeds 0, 1, …"""
    results = []
    for strategy, scores in tests.items():
        for seed, score in enumerate(scores):
            val = (validations or tests)[strategy][seed]
            results.append(
                Result(
                    Path(f"{strategy}-{seed}"),
                    1,
                    "finished",
                    strategy,
                    seed,
                    "val/acc",
                    "max",
                    validation={"val/acc": val},
                    test={"test/acc": score},
                    sharing={"unique": (unique or {}).get(strategy)},
                )
            )
    return {row.strategy: row for row in compare(results).rows}


def on_test(run):
    return run.test["test/acc"]


def on_validation(run):
    return run.validation["val/acc"]


def choice(*arguments):
    none, *others = rows(*arguments).values()
    return choose(
        none, contrast_all(others, lambda row: row.control, on_test), on_test, on_validation
    )


def around(mean, n=6, spread=0.01):
    """Values of this mean, in pairs of this distance."""
    return [mean + spread * (-1) ** i / 2 for i in range(n)]


def plus(values, *gains):
    """Values plus gains, which are repeated."""
    return [value + gains[i % len(gains)] for i, value in enumerate(values)]


NONE = around(0.7)
GAINS = {"none": (0.0,), "a": (0.10, 0.11), "b": (0.09, 0.12), "c": (0.09, 0.121)}


def test_contrasts_are_paired_t_tests_corrected_by_bonferroni():
    random = Random(0)
    scores = {name: [random.gauss(0.7, 0.1) for _ in range(6)] for name in ("none", "a", "b", "c")}
    others = [row for name, row in rows(scores).items() if name != "none"]
    for contrast in contrast_all(others, lambda row: row.control, on_test):
        scipys = stats.ttest_rel(scores[contrast.row.strategy], scores["none"])
        expected = scipys.confidence_interval(1 - 0.05 / 3)
        assert contrast.gain.low == pytest.approx(expected.low)
        assert contrast.gain.high == pytest.approx(expected.high)


@pytest.mark.parametrize(
    ("gains", "sign"),
    [
        ((0.1, 0.11, 0.12), 1),
        ((-0.1, -0.11, -0.12), -1),
        ((0.1, -0.1, 0.05), 0),
        ((0.0, 0.0, 0.0), 0),
        ((0.1, 0.1, 0.1 + 1e-16), 0),  # rounded scores, of which nothing says how much they vary
    ],
)
def test_the_sign(gains, sign):
    contrast = Contrast(rows({"none": NONE})["none"], gains, 1)
    assert contrast.sign == sign
    # what is told by one comparison may be no more than the best of a thousand
    assert Contrast(contrast.row, gains, 1000).sign == 0


def test_more_seeds():
    row = rows({"none": NONE})["none"]
    gains = (0.0, 1.0, 2.0, -1.0)  # an effect of 0.387
    assert Contrast(row, gains, 1).more_seeds(1000) == 55 - 4
    assert Contrast(row, gains, 8).more_seeds(1000) > 55 - 4
    assert Contrast(row, gains, 1).more_seeds(54) is None
    assert Contrast(row, (1.0, -1.0, 0.0), 1).more_seeds(1000) is None
    assert Contrast(row, (0.5, 0.5, 0.5), 1).more_seeds(1000) is None


def test_fewer_than_three_common_seeds_are_no_contrast():
    tests = {"none": around(0.7, 4), "a": around(0.9, 2), "b": around(0.9, 3)}
    found = choice(tests)
    assert [(c.row.strategy, c.comparisons) for c in found.contrasts] == [("b", 1)]


def test_validation_data_choose_between_those_that_are_better():
    tests = {"none": NONE, "a": plus(NONE, 0.10, 0.11), "b": plus(NONE, 0.09, 0.12)}
    for good, bad in (("a", "b"), ("b", "a")):
        validations = {"none": NONE, good: plus(NONE, 0.2), bad: plus(NONE, 0.1)}
        found = choice(tests, validations)
        assert found.row.strategy == found.best.row.strategy == good
        assert [other.row.strategy for other in found.others] == [bad]
        assert found.of_row.row is found.row


def test_what_is_not_better_on_test_data_is_not_used():
    tests = {"none": NONE, "a": plus(NONE, 0.02, -0.01), "b": plus(NONE, 0.05, 0.06)}
    validations = {"none": NONE, "a": plus(NONE, 0.3), "b": plus(NONE, 0.1)}
    assert choice(tests, validations).row.strategy == "b"
    del tests["b"]
    found = choice(tests, validations)
    assert found.row.strategy == "none"
    assert found.of_row is None
    assert found.others == found.contrasts
    assert found.best.row.strategy == "a"


def test_what_test_data_show_to_be_worse_is_not_used_either():
    tests = {"none": NONE, "a": plus(NONE, 0.10, 0.11), "b": plus(NONE, 0.20, 0.22)}
    validations = {"none": NONE, "a": plus(NONE, 0.2), "b": plus(NONE, 0.1)}
    found = choice(tests, validations)
    assert found.row.strategy == "b"
    assert [contrast.row.strategy for contrast in found.contenders] == ["b"]


@pytest.mark.parametrize(
    ("small", "gains", "used"),
    [
        (50, (0.009, 0.012), "b"),  # within a standard error
        (50, (0.001, 0.002), "a"),  # not within it
        (95, (0.009, 0.012), "a"),  # hardly smaller
        (None, (0.009, 0.012), "a"),
    ],
)
def test_a_smaller_one_within_a_standard_error(small, gains, used):
    tests = {"none": NONE, "a": plus(NONE, 0.10, 0.11), "b": plus(NONE, 0.09, 0.12)}
    # the standard error of the difference of a and b is 0.0007 on validation data
    validations = {"none": NONE, "a": plus(NONE, 0.011), "b": plus(NONE, *gains)}
    found = choice(tests, validations, {"none": 100, "a": 100, "b": small})
    assert found.best.row.strategy == "a"
    assert found.row.strategy == used


def test_the_best_of_equally_small_ones():
    tests = {name: plus(NONE, *gains) for name, gains in GAINS.items()}
    validations = tests | {"a": plus(NONE, 0.106)}
    for good, bad in (("b", "c"), ("c", "b")):
        validations |= {good: plus(NONE, 0.09, 0.12), bad: plus(NONE, 0.089, 0.12)}
        unique = {"none": 100, "a": 100, "b": 50, "c": 51}
        found = choice(tests, validations, unique)
        assert (found.best.row.strategy, found.row.strategy) == ("a", good)


def test_the_smallest_that_may_be_as_good():
    tests = {
        "none": NONE,
        "a": plus(NONE, 0.01, -0.01),
        "b": plus(NONE, 0.01, -0.01),
        "c": plus(NONE, -0.1, -0.11),
    }
    unique = {"none": 100, "a": 50, "b": 20, "c": 10}
    assert choice(tests, None, unique).small.row.strategy == "b"
    # of about equal sizes, the better one
    unique = {"none": 100, "a": 21, "b": 20, "c": 10}
    for good, bad in (("a", "b"), ("b", "a")):
        tests |= {good: plus(NONE, 0.02, -0.01), bad: plus(NONE, 0.01, -0.02)}
        assert choice(tests, None, unique).small.row.strategy == good
    assert choice(tests, None, {"none": 100, "a": 95, "b": 91, "c": 10}).small is None
    assert choice(tests).small is None
