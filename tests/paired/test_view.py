import copy
from types import SimpleNamespace

import pytest

from lit_share.paired._view import View


@pytest.fixture
def whole():
    return SimpleNamespace(model="pair", epoch=3)


@pytest.fixture
def view(whole):
    return View(whole, {"model": lambda: "child"}, "a")


def test_own_attributes_replace_those_of_the_whole(view, whole):
    assert (view.model, whole.model, view.epoch) == ("child", "pair", 3)
    assert isinstance(view, SimpleNamespace)
    assert repr(view) == repr(whole)
    assert not hasattr(view, "loop")


def test_common_attributes_are_set_and_own_ones_are_not(view, whole):
    view.epoch = 4
    assert whole.epoch == 4
    with pytest.raises(AttributeError, match="child 'a' sets model of a SimpleNamespace"):
        view.model = "other"
    assert whole.model == "pair"


def test_copies_do_not_recurse(view):
    assert copy.copy(view).model == "child"
