"""Stability of selections, against sets of indices compared pair by pair."""

import copy
import itertools
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_share.metrics import SelectionStability, index_change, jaccard


def selections(runs: int = 5, rows: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(runs, rows, generator=torch.Generator().manual_seed(seed)) < 0.4


def expected(runs: Tensor) -> dict[str, float]:
    sets = [set(run.nonzero().flatten().tolist()) for run in runs]
    pairs = list(itertools.combinations(sets, 2))
    changes = [len(a ^ b) / (len(a) + len(b)) if a or b else 0.0 for a, b in pairs]
    alike = [len(a & b) / len(a | b) if a or b else 1.0 for a, b in pairs]
    return {"index_change": sum(changes) / len(pairs), "jaccard": sum(alike) / len(pairs)}


def filled(runs: Tensor) -> SelectionStability:
    metric = SelectionStability()
    for run in runs:
        metric.update(run)
    return metric


def as_floats(result: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in result.items()}


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=2)
    )
)
def test_reference(drawn):
    runs = torch.tensor(drawn)
    assert as_floats(filled(runs).compute()) == pytest.approx(expected(runs), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "change", "alike"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 0.0, 1.0),
        ([1, 1, 0, 0], [0, 0, 1, 1], 1.0, 0.0),
        ([1, 1, 0, 0], [0, 1, 1, 0], 0.5, 1 / 3),
        ([1, 1, 1, 0], [1, 0, 0, 0], 0.5, 1 / 3),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0, 1.0),
        ([0, 0, 0, 0], [1, 0, 0, 0], 1.0, 0.0),
        ([], [], 0.0, 1.0),
    ],
    ids=["same", "disjoint", "half", "subset", "both empty", "one empty", "no rows"],
)
def test_known(a, b, change, alike):
    runs = torch.tensor([a, b], dtype=torch.bool)
    assert index_change(runs).item() == pytest.approx(change)
    assert jaccard(runs).item() == pytest.approx(alike)


def test_order_of_runs_and_rows_does_not_matter():
    runs = selections()
    shuffled = runs[torch.tensor([3, 0, 4, 1, 2])].flip(1)
    assert index_change(runs).item() == pytest.approx(index_change(shuffled).item())
    assert jaccard(runs).item() == pytest.approx(jaccard(shuffled).item())


def test_rows_that_no_run_selects_do_not_matter():
    runs = selections()
    padded = torch.cat([runs, torch.zeros(len(runs), 100, dtype=torch.bool)], dim=1)
    assert torch.equal(index_change(runs), index_change(padded))
    assert torch.equal(jaccard(runs), jaccard(padded))


def test_rows_of_a_trained_layer():
    layers = [
        torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, -2.0]]),
        torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]),
    ]
    metric = SelectionStability()
    for weight in layers:
        metric.update((weight != 0).any(dim=0))
    assert as_floats(metric.compute()) == pytest.approx({"index_change": 1 / 3, "jaccard": 1 / 2})


class TestState:
    def test_reset(self):
        metric = filled(selections())
        metric.reset()
        for run in selections(seed=1):
            metric.update(run)
        assert as_floats(metric.compute()) == pytest.approx(expected(selections(seed=1)))

    @pytest.mark.parametrize(
        "again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
    )
    def test_copies(self, again):
        metric = filled(selections())
        assert as_floats(again(metric).compute()) == as_floats(metric.compute())

    def test_state_dict(self):
        metric = filled(selections())
        metric.persistent(True)
        fresh = SelectionStability()
        fresh.persistent(True)
        fresh.load_state_dict(metric.state_dict())
        fresh._update_count = 1
        assert as_floats(fresh.compute()) == as_floats(metric.compute())

    def test_what_is_given_later_changes_the_result(self):
        runs = selections()
        metric = filled(runs[:3])
        assert as_floats(metric.compute()) == pytest.approx(expected(runs[:3]))
        for run in runs[3:]:
            metric.update(run)
        assert as_floats(metric.compute()) == pytest.approx(expected(runs))

    def test_precision(self):
        assert as_floats(filled(selections()).set_dtype(torch.float16).compute()) == pytest.approx(
            expected(selections())
        )

    def test_ranks_add_up(self):
        """What `Metric` does with the lists of two ranks, which need not be equally long."""
        runs = selections()
        first, second = filled(runs[:2]), filled(runs[2:])
        first._reduce_states(second.metric_state)
        assert as_floats(first.compute()) == pytest.approx(expected(runs))


def work(rank: int, address: str, counts: tuple[int, ...], results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=len(counts))
    warnings.filterwarnings(
        "ignore", message="The ``compute`` method of metric"
    )  # where there was no run
    runs = selections()[sum(counts[:rank]) :][: counts[rank]]
    metric = filled(runs)
    results[rank] = as_floats(metric.compute())
    own = int(metric.runs)  # after `compute`, a rank has its own runs only
    dist.destroy_process_group()
    assert own == counts[rank]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.usefixtures("warm_spawn")
@pytest.mark.parametrize("counts", [(1, 4), (0, 5)], ids=str)
def test_processes(tmp_path, counts):
    """Also ranks with one run or none, which alone would have nothing to compare."""
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(work, (f"file://{tmp_path / 'rendezvous'}", counts, results), nprocs=len(counts))
        assert len(results) == 2
        for result in results.values():
            assert result == pytest.approx(expected(selections()))


class TestErrors:
    @pytest.mark.filterwarnings(
        "ignore:The ``compute`` method of metric SelectionStability was called before"
    )
    @pytest.mark.parametrize("runs", [0, 1])
    def test_fewer_than_two_runs(self, runs):
        with pytest.raises(ValueError, match=f"at least two: got {runs}"):
            filled(selections()[:runs]).compute()

    @pytest.mark.parametrize("function", [index_change, jaccard])
    @pytest.mark.parametrize(
        ("runs", "message"),
        [
            (selections()[:1], "at least two: got 1"),
            (
                selections()[0],
                r"bool tensor of shape \(runs, rows\): got torch.bool of shape \(12,\)",
            ),
            (
                selections().float(),
                r"bool tensor of shape \(runs, rows\): got torch.float32 of shape \(5, 12\)",
            ),
        ],
    )
    def test_functions(self, function, runs, message):
        with pytest.raises(ValueError, match=message):
            function(runs)

    @pytest.mark.parametrize(
        "selected", [torch.ones(3), torch.tensor([0, 2]), torch.ones(2, 3, dtype=torch.bool)]
    )
    def test_not_a_selection(self, selected):
        with pytest.raises(
            ValueError, match=r"a selection is a bool tensor of shape \(rows,\).*any\(dim=0\): got"
        ):
            SelectionStability().update(selected)

    def test_other_rows(self):
        metric = filled(selections(rows=12))
        with pytest.raises(ValueError, match="got 3 rows after runs with 12"):
            metric.update(torch.ones(3, dtype=torch.bool))
