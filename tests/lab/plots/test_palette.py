import re

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_share.lab.plots import OKABE_ITO, styles
from lit_share.lab.plots._palette import _KNOWN
from lit_share.penalties import RECIPES


def test_the_baseline_is_black_and_first():
    look = styles(["soft_tie", "hard_tie", "none"])
    assert list(look) == ["none", "hard_tie", "soft_tie"]
    assert look["none"].color == "#000000"
    assert list(styles(["none", "l2"], baseline="l2")) == ["l2", "none"]


def test_a_strategy_has_one_style_on_all_pages():
    names = ["none", "soft_tie", "l2", "mine", "growl+l2", "soft_tie learned"]
    together = styles(names, baseline="l2")
    assert len(set(together.values())) == len(names)
    for name in names:
        assert styles([name, "hard_tie"])[name] == together[name]


def test_each_recipe_has_a_place():
    assert {*RECIPES, "hard_tie"} <= {*_KNOWN, "none"}
    assert len(_KNOWN) == len({*_KNOWN})


def test_without_the_baseline_nothing_is_black():
    assert styles(["l2"])["l2"].color != "#000000"


@given(st.permutations(["none", "l2", "soft_tie", "a", "b"]))
def test_the_order_of_names_does_not_matter(names):
    assert styles(names) == styles(sorted(names))


def test_never_colour_alone():
    """All differ in colour and marker together, and those of one colour differ in the marker."""
    look = styles([f"s{i:02}" for i in range(63)]).values()
    assert len({(style.color, style.symbol) for style in look}) == 63
    assert len({(style.color, style.glyph) for style in look}) == 63
    few = styles(_KNOWN[:7]).values()
    assert len({style.symbol for style in few}) == len({style.color for style in few}) == 7


def test_colours_are_okabes_and_itos():
    assert len(set(OKABE_ITO)) == 8
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in OKABE_ITO)
    assert {style.color for style in styles(map(str, range(30))).values()} <= set(OKABE_ITO)


@pytest.mark.parametrize("style", styles(map(str, range(9))).values())
def test_plotly_knows_them(style):
    go.Scatter(marker={"symbol": f"{style.symbol}-open"}, line={"dash": style.dash})
