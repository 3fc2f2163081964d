import math
from pathlib import Path

import pytest

from lit_share.lab.report._settings import label, number, other_overrides, setting_of, varying
from lit_share.lab.results import Result


def result(*overrides, **keywords):
    return Result(
        Path(), 1, "finished", "none", 0, "val", "max", overrides=list(overrides), **keywords
    )


def test_what_is_compared_and_tuned_is_no_setting():
    overrides = [
        "regularizer=l2",
        "strength=1",
        "seed=1",
        "data=digits",
        "hydra.run.dir=x",
        "lr=0.1",
        "+data.n_b=20",
    ]
    assert other_overrides(result(*overrides, tune=["lr"])) == ("+data.n_b=20",)


def test_settings_have_columns_and_overrides():
    found = setting_of(
        result("trainer.max_epochs=3", "~callbacks.sharing", "x=a=b", data="digits", model=None)
    )
    assert found == {"data": "digits", "trainer.max_epochs": "3", "x": "a=b"}


def test_a_value_that_some_do_not_name_varies():
    assert varying([{"a": "1", "b": "1"}, {"a": "1"}]) == ["b"]
    assert varying([]) == []


def test_labels():
    assert label({"a": "1", "~b": "", "c": "2"}, ["a", "~b", "x"]) == "a=1, ~b"


@pytest.mark.parametrize(
    ("text", "value"), [("20", 20.0), ("1e-3", 1e-3), ("relu", None), ("[1,2]", None), ("", None)]
)
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_what_is_not_finite_is_no_place_on_an_axis(text):
    assert not math.isfinite(float(text))
    assert number(text) is None
