"""The table of suffixes."""

from __future__ import annotations

import copy
import pickle

import pytest

from lit_share.ties import TieError, Ties
from lit_share.ties import _suffix as table
from lit_share.ties._suffix import SUFFIXES, WHOLE, Suffix, suffix_of

from .._modules import module_of


def test_names_of_members_end_as_their_patterns_do():
    assert [own.of_member(None) for own in (WHOLE, *SUFFIXES) if not own.slices] == [
        "",
        ".T",
        "[...]",
    ]
    assert suffix_of("w[:]").of_member(12) == "[12]"


def test_a_row_is_all_that_a_new_suffix_needs(monkeypatch):
    def unless_long(shape):
        return "" if shape[0] > 2 else f", which has {shape[0]} rows: exclude it"

    own = Suffix("[!]", "doubts", "all doubts", unless_long, compares_numbers=True)
    monkeypatch.setattr(table, "SUFFIXES", (*SUFFIXES, own))
    module = module_of({"w": (3, 4), "v": (2, 4)})
    (tie,) = Ties("w[!]").find(module)
    assert (tie.members[0].name, tie.inside) == ("w[!]", True)
    with pytest.raises(TieError, match=r"^'v\[!\]' doubts 'v', which has 2 rows: exclude it$"):
        Ties("v[!]").find(module)
    with pytest.raises(TieError, match=r"\[\.\.\.\] \(all numbers\) and \[!\] \(all doubts\) are"):
        Ties("v[?]")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal(again):
    assert [again(own) for own in SUFFIXES] == [*SUFFIXES]
