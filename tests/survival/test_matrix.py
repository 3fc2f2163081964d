"""Hard sharing survives all that is done with a module, wherever and however it is built.

At the end of a run a table is printed. In each cell what is shared is stored once, before, during
and after training, and after three steps all weights are those of a plain loop that uses one tensor
in several places.
"""

from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest
import torch

from lit_share import TieError, share

from .._two_processes import errors_of
from . import _two_processes
from ._modules import (
    CASES,
    EQUAL,
    PLACES,
    InInit,
    Watch,
    assert_one,
    assert_trained,
    fit,
    loader,
    sharing,
    trainer,
)

BF16_TOLERANCE = 2e-2  # weights up to 2, which have a distance of 2⁻⁷ there


def cpu_fit(kind, case):
    module = kind(case)
    fit(module, sharing(case))
    assert_trained(module)


def resume(kind, case):
    fit(kind(case), sharing(case), epochs=1).save_checkpoint("first.ckpt")
    module = kind(case, scrambled=True)
    fit(module, sharing(case), ckpt_path="first.ckpt")
    assert_trained(module)


def validate(kind, case):
    fit(kind(case), sharing(case)).save_checkpoint("last.ckpt")
    module = kind(case, scrambled=True)
    (metrics,) = trainer(sharing(case), Watch()).validate(
        module, loader(), ckpt_path="last.ckpt", verbose=False
    )
    assert_trained(module)
    _, expected = CASES[case].reference(torch.float64)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)  # Lightning logs in float32


def copied(how):
    def train_a_copy(kind, case):
        """The copy shares its parameters without the callback."""
        module = kind(case)
        fit(module, sharing(case), epochs=0)
        other = how(module)
        before = [p.detach().clone() for p in module.parameters()]
        fit(other)
        assert_trained(other)
        assert_one(module)
        assert all(torch.equal(p, was) for p, was in zip(module.parameters(), before, strict=True))

    return train_a_copy


def bfloat16(kind, case):
    module = kind(case).to(torch.bfloat16)
    fit(module, sharing(case), precision="bf16-true")
    assert_trained(module, torch.bfloat16, BF16_TOLERANCE)


def compiled_parts(kind, case):
    torch.compiler.reset()
    module = kind(case, compiled=True)
    fit(module, sharing(case))
    assert_trained(module)


def compiled_module(kind, case):
    torch.compiler.reset()
    module = kind(case)
    fit(torch.compile(module, backend="aot_eager"), sharing(case))
    assert_trained(module)


HERE = {
    "fit": cpu_fit,
    "resume": resume,
    "validate": validate,
    "deepcopy": copied(copy.deepcopy),
    "pickle": copied(lambda module: pickle.loads(pickle.dumps(module))),
    "bf16": bfloat16,
    "compile parts": compiled_parts,
    "compile module": compiled_module,
}


@pytest.fixture(autouse=True)
def _cell(request, record_property):
    """What the table needs to know."""
    names = getattr(request.node, "callspec", None) and request.node.callspec.params
    if names and names.keys() >= {"column", "case", "place"}:
        case, column = names["case"], names["column"]
        word = "refused" if case == EQUAL and column.startswith("FSDP2") else "ok"
        record_property("cell", (f"{case}, {names['place']}", column, word))


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)  # torch warns of its own code
# torch, of transposed parameters while it compiles; it hides this where warnings are not errors.
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"
)
@pytest.mark.parametrize(
    ("column", "case", "place"),
    [
        pytest.param(*cell, marks=[pytest.mark.slow] * cell[0].startswith("compile"))
        for cell in product(HERE, CASES, PLACES)
    ],
)
def test_one_process(column, case, place):
    HERE[column](PLACES[place], case)


# Two processes


@pytest.fixture(scope="session")
def errors(tmp_path_factory):
    """What failed in two processes."""
    return errors_of(
        "tests.survival._two_processes", _two_processes.table(), tmp_path_factory.getbasetemp()
    )


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize(("column", "case", "place"), list(_two_processes.cells()))
def test_two_processes(errors, column, case, place):
    error = errors[f"{column} | {case} | {place}"]
    assert error is None, error


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", _two_processes.REFUSALS)
def test_a_tie_after_sharding_is_refused(errors, what, case):
    error = errors[f"{what} | {case}"]
    assert error is None, error


# Without values


@pytest.mark.parametrize("case", [case for case in CASES if case != EQUAL])
def test_to_empty_of_the_root(case):
    module = InInit(case, meta=True)
    share(module, CASES[case].ties)
    module.to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)  # there may be NaN, which equals nothing
    assert_one(module)
    start = InInit(case)
    share(start, CASES[case].ties)
    module.load_state_dict(start.state_dict())
    fit(module)
    assert_trained(module)


def test_what_has_no_values_is_not_equal():
    with pytest.raises(TieError, match="meta"):
        share(InInit(EQUAL, meta=True), CASES[EQUAL].ties, where="equal")
