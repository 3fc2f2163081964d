"""The formulas of `benchmarks.scale` are what is sent, kept and allocated."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.scale.__main__ import main, rows
from benchmarks.scale._costs import COSTS, SYMBOLS, G, N, P, b, evaluate, sizes
from benchmarks.scale._example import Decoder, Machine, predict, training_bytes
from benchmarks.scale._operations import Operations, Tally, count
from lit_share.functional import Shard, TieBatch, TieTensors
from lit_share.penalties import RECIPES

from .._two_processes import errors_of
from . import _two_processes
from ._document import page
from ._kept import kept_bytes
from ._modules import EVEN, Pair, precision_of, shapes_of
from ._two_processes import PENALTIES, needs_matrices, ties_of

# What a group is, and how many a shape has.
GROUPS = {
    "element": math.prod,
    "output": lambda shape: shape[0],
    "input": lambda shape: shape[1],
    "tensor": lambda shape: 1,
    "spectrum": lambda shape: 0,
}


@pytest.fixture(scope="session")
def errors(tmp_path_factory):
    """What failed in two processes."""
    return errors_of(
        "tests.scale._two_processes", _two_processes.table(), tmp_path_factory.getbasetemp()
    )


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("check", "name"), list(_two_processes.cells()))
def test_two_processes(errors, check, name):
    error = errors[f"{check} | {name}"]
    assert error is None, error


def test_every_recipe_of_members_has_a_cost():
    """`value_tie` compares the numbers of a tensor, and `correlated_inputs` the data."""
    others = {"value_tie", "correlated_inputs"}
    assert list(COSTS) == [name for name in RECIPES if name not in others]


@pytest.mark.parametrize("name", PENALTIES)
def test_sizes(name):
    penalty, shapes = RECIPES[name].penalty, shapes_of(EVEN, needs_matrices(name))
    groups = [GROUPS[penalty.groups](shape) for shape in shapes]
    numbers = sum(map(math.prod, shapes))
    expected = (2, len(shapes), numbers, sum(groups), sum(set(groups)), 2 * len(shapes), 8, 4)
    assert tuple(sizes(penalty, shapes, members=2, ranks=8).values()) == expected
    assert list(sizes(penalty, shapes, members=2)) == list(SYMBOLS)


@pytest.mark.parametrize("name", PENALTIES)
def test_what_is_kept(name):
    penalty, of = RECIPES[name].penalty, dict(sizes_of(name))
    expected, options = evaluate(COSTS[name].kept, of), precision_of(penalty, Pair())
    # A copy, as OWL weights are kept by the penalty, and recipes are there for all.
    assert kept_bytes(replace(penalty), ties_of(name), Pair(), **options) == expected
    for keep, fits in (("keep_zeros", penalty.makes_zeros), ("keep_tied", penalty.makes_equal)):
        if fits:
            kept = kept_bytes(replace(penalty), ties_of(name), Pair(), **{keep: True})
            assert kept == expected + of[G]
    if penalty.is_smooth:
        kept = kept_bytes(replace(penalty), ties_of(name), Pair(), optimizers=2, **options)
        assert kept == expected + evaluate(N * P * b, of)


def sizes_of(name):
    return sizes(RECIPES[name].penalty, shapes_of(EVEN, needs_matrices(name)), members=2)


def test_operations_by_hand():
    # Each of two members is multiplied by 1, and added to its gradient.
    multiply, add = 4 + 4, 4 + 4 + 4
    l2 = count(RECIPES["l2"].penalty, 2)
    assert l2.traffic == pytest.approx(2 * (multiply + add), rel=1e-6)
    # The first member's deviation is filled with zeros, and the other's is a difference.
    follow = count(RECIPES["follow"].penalty, 2)
    assert follow == Operations(4 + 12 + 2 * (multiply + add), 6, 2 * 4 + 2 * 4 + 2 * 4)


@pytest.mark.parametrize("name", [n for n in PENALTIES if n not in ("oscar", "growl")])
def test_temporaries(name):
    """Half precision takes the plain path on the host, too; elements go through it in blocks."""
    penalty, shape = RECIPES[name].penalty, (1024, 1024)
    per_element = count(penalty, 2, torch.bfloat16).temporaries
    tie = TieTensors(
        [torch.ones(shape, dtype=torch.bfloat16) for _ in "ab"],
        grads=[torch.zeros(shape, dtype=torch.bfloat16) for _ in "ab"],
        steps=[0.1, 0.1],
        start=[torch.zeros(shape, dtype=torch.bfloat16) for _ in "ab"],
        precision=[torch.ones(shape) for _ in "ab"] if penalty.needs_precision else None,
    )
    batch = TieBatch(penalty, [tie])
    with Tally() as tally:
        if penalty.is_smooth:
            batch.add_gradient_(0.1)
        else:
            batch.prox_()
    block = 2**19 if penalty.groups == "element" else 2**20
    assert 0.7 * per_element * block <= tally.peak <= 1.01 * per_element * block


class Alone:
    """A rank that waits for no other."""

    def sum(self, tensor):
        return tensor


def test_temporaries_of_statistics():
    """They are there twice."""
    penalty, groups = RECIPES["group_lasso"].penalty, 2**18
    members = [torch.ones(1, groups) for _ in "ab"]
    tie = TieTensors(members, steps=[0.1, 0.1], shard=Shard(0, 0, 1, Alone()))
    batch = TieBatch(penalty, [tie])
    with Tally() as tally:
        batch.prox_()
    sent = 2 * 8 * groups
    assert sent <= tally.peak <= sent + count(penalty, 2).temporaries * 3 * groups


def test_what_the_page_says_of_the_example():
    model, machine = Decoder(), Machine()
    trained = training_bytes(model, machine, members=2)
    for p in predict(model, machine):
        if p.launches > 0:
            assert p.launches * machine.launch > p.moved / machine.memory
        # The memory of a GPU of this bandwidth.
        assert (p.temporaries > 80e9) == (p.strategy == "oscar")
        assert p.sent < 1e-3 * trained or p.strategy == "oscar"


def test_the_command_prints_the_example(capsys):
    main(["--layers", "2", "--width", "64", "--hidden", "96", "--vocabulary", "100"])
    lines = capsys.readouterr().out.splitlines()
    model = Decoder(layers=2, width=64, hidden=96, vocabulary=100)
    for cells in rows(model, Machine(), 2, 2**20):
        (line,) = [line for line in lines if line.split()[:1] == cells[:1]]
        assert line.split() == " ".join(cells).split()


def test_numbers_of_the_example():
    """As Llama 2 of 7 billion numbers is published."""
    assert sum(map(math.prod, Decoder().shapes())) == 6_738_415_616


def test_the_page_is_that_of_the_formulas(up_to_date):
    up_to_date("scale.md", page())
