"""Penalties on parameters sharded by `fully_shard`, without a Trainer, and the traffic."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from lit_share import (
    OwlWeights,
    Penalty,
    PenaltySteps,
    Ties,
    add_penalty_gradient,
    apply_prox,
    clusters,
    share,
    starting_values,
    verify_shared,
)
from lit_share.metrics import compare_ties, count_numbers
from lit_share.ties import TieViews, cluster_ties

from .._own_rows import registered
from . import _reference as reference

ROWS, COLUMNS = 5, 4
PENALTIES = {
    f"{norm} {groups}": partial(
        Penalty, norm, groups, weights=reference.ramp if norm == "owl" else None
    )
    for norm, groups in product(
        ("squared", "l1", "owl"), ("element", "output", "input", "tensor", "spectrum")
    )
}
ALL_CENTERS = (
    "a zero",
    "a start",
    "ab zero",
    "ab mean",
    "ab first",
    "ab start",
    "abc zero",
    "abc mean",
    "abc first",
)


class Models(nn.Module):
    """Three matrices of one shape, the last one transposed if so asked; and one row."""

    def __init__(self, turned=False):
        super().__init__()
        shapes = {
            "a": (ROWS, COLUMNS),
            "b": (ROWS, COLUMNS),
            "c": (COLUMNS, ROWS) if turned else (ROWS, COLUMNS),
        }
        # No two norms are equal, as OWL has many gradients there.
        rng = torch.Generator().manual_seed(50)
        for name, shape in shapes.items():
            part = nn.Module()
            part.weight = nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64))
            part.row = nn.Parameter(torch.randn(1, COLUMNS, generator=rng, dtype=torch.float64))
            self.add_module(name, part)
        self.turned = turned

    def forward(self):
        return sum(parameter.square().sum() for parameter in self.parameters())

    def ties(self, *roots):
        """Of the matrices, and of the rows, which are nowhere on the second process."""
        weights = [f"{root}.weight{'.T' if root == 'c' and self.turned else ''}" for root in roots]
        return [*Ties(*weights).find(self), *Ties(*(f"{root}.row" for root in roots)).find(self)]


@contextmanager
def counted(calls):
    """All collectives that DTensor or the package start."""
    names = (
        "all_reduce",
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
        "all_to_all_single",
        "broadcast",
    )
    functional = distributed._functional_collectives
    with pytest.MonkeyPatch.context() as patch:
        for where, name in [(distributed, "all_reduce"), *((functional, n) for n in names)]:
            real = getattr(where, name, None)
            if real is None:
                continue

            def called(*args, real=real, name=name, **kwargs):
                calls.append(name)
                return real(*args, **kwargs)

            patch.setattr(where, name, called)
        yield


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def move(module, penalty, roots):
    """A gradient and a proximal step, both after the weights have left their starting values."""
    ties, start = module.ties(*roots), None
    if penalty.center == "start":
        start = starting_values(ties)
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                parameter.mul_(1.25 + 0.25 * i)
    module().backward()
    add_penalty_gradient(module, penalty, ties, 0.5, start=start)
    apply_prox(module, penalty, ties, 0.25, start=start)


def assert_moved_alike(module, other):
    for (name, w), (_, v) in zip(module.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(
            whole(w.detach()), v.detach(), rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
        torch.testing.assert_close(
            whole(w.grad), v.grad, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def alike(name, shard, turned=False, cases=("a zero", "ab mean", "abc zero")):
    """Members that are divided move as the whole ones do."""
    for case in cases:
        roots, center = case.split()
        penalty = PENALTIES[name](center=center)
        divided, plain = Models(turned), Models(turned)
        shard(divided)
        assert all(isinstance(p, DTensor) for p in divided.parameters())
        move(divided, penalty, roots)
        move(plain, penalty, roots)
        assert_moved_alike(divided, plain)


def fsdp(module, mesh=None, **options):
    fully_shard(module, mesh=mesh or init_device_mesh("cpu", (2,)), **options)


def columns(module):
    """Divided along the second dimension where that has an even length."""
    fsdp(module, shard_placement_fn=lambda p: Shard(1) if p.shape[1] % 2 == 0 else Shard(0))


def replicated(module):
    """Sharded within groups, which are copies of each other: here of one process."""
    fsdp(module, init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "shards")))


def along_both(module):
    """As tensor parallelism divides them, and FSDP2 what that has left."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("one", "two"))
    for part in module.children():
        for name, parameter in list(part.named_parameters()):
            setattr(
                part,
                name,
                nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0), Shard(1)])),
            )


def in_copies(module):
    mesh = init_device_mesh("cpu", (2,))
    for part in module.children():
        for name, parameter in list(part.named_parameters()):
            setattr(
                part, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Replicate()]))
            )


def values(name, shard):
    """The penalty is that of whole members, with a single message."""
    for case in ("a zero", "ab start", "abc mean", "ab first"):
        roots, center = case.split()
        divided, plain = Models(), Models()
        shard(divided)
        steps = [PenaltySteps(PENALTIES[name](center=center), ["*"], 0.5) for _ in range(2)]
        found, calls = [], []
        for own, module in zip(steps, (divided, plain), strict=True):
            own.module, own.found = module, module.ties(*roots)
            own._start = starting_values(own.found)
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(1.25)
            with counted(calls):
                found.append(own.value())
        assert found[0] == pytest.approx(found[1], rel=1e-12)
        assert calls == ([] if shard is in_copies else ["all_reduce"])


def one_message(name):
    """At most one collective each for gradients and proximal steps; none without shared groups."""
    penalty, module = PENALTIES[name](center="mean"), Models()
    fsdp(module)
    ties, calls = module.ties("a", "b"), []
    with counted(calls):
        add_penalty_gradient(module, penalty, ties, 0.5)
        apply_prox(module, penalty, ties, 0.25)
    local = name in ("l1 element", "l1 output") or penalty.is_smooth
    assert calls == [] if local else calls == ["all_reduce"] * 2


def after_a_forward_pass(name):
    """Without gradients it leaves the parameters of the outermost module whole for a while."""
    penalty, divided, plain = PENALTIES[name](center="mean"), Models(), Models()
    fsdp(divided)
    for module in (divided, plain):
        ties = module.ties("a", "b")
        with torch.no_grad():
            module()
        # Or else there is nothing to be tested.
        assert not any(isinstance(p, DTensor) for p in module.parameters())
        apply_prox(module, penalty, ties, 0.25)
        with torch.no_grad():
            module()
        add_penalty_gradient(module, penalty, ties, 0.5)
    assert all(isinstance(p, DTensor) for p in divided.parameters())
    for name, w in plain.named_parameters():
        torch.testing.assert_close(
            divided.get_parameter(name).full_tensor(), w, rtol=1e-9, atol=1e-9
        )
        if w.grad is not None:
            torch.testing.assert_close(
                divided.get_parameter(name).grad.full_tensor(), w.grad, rtol=1e-9, atol=1e-9
            )


def inside_after_a_forward_pass(name):
    """Asked of a module that is a part of the one that was divided."""
    penalty, divided, plain = PENALTIES[name](center="zero"), Models(), Models()
    fsdp(divided)
    for module in (divided, plain):
        with torch.no_grad():
            module()
        apply_prox(module.a, penalty, Ties("weight"), 0.25)
        with torch.no_grad():
            module()
        add_penalty_gradient(module.a, penalty, Ties("weight"), 0.5)
    torch.testing.assert_close(divided.a.weight.full_tensor(), plain.a.weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        divided.a.weight.grad.full_tensor(), plain.a.weight.grad, rtol=1e-9, atol=1e-9
    )
    assert not torch.equal(plain.a.weight, Models().a.weight)


def zeros_again(name):
    """What a proximal step has made zero is made zero again."""
    penalty, step = PENALTIES[name](center="zero"), 1.2 if "element" in name else 2.5
    # Without the size of groups, which is another for outputs and inputs.
    penalty = replace(penalty, scaled=False)
    for turned in (False, True):
        divided, plain = Models(turned), Models(turned)
        fsdp(divided)
        for module in (divided, plain):
            views = TieViews(penalty, module.ties("a", "c"), frozen={})
            views.set_steps([[step] * 2 for _ in views.ties])
            views.take_prox()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(1.0)
            views.refresh()
            views.restore_frozen(set(views.frozen))
        for name, w in plain.named_parameters():
            assert torch.equal(divided.get_parameter(name).full_tensor() == 0.0, w == 0.0)
        assert 0 < int((plain.a.weight == 0.0).sum()) < plain.a.weight.numel()


def with_few_values(module):
    """Some numbers are zero, and some are equal in several members."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.round())
    return module


def counts(name, shard):
    """Numbers are counted as in whole members, with a message for the module and one for ties."""
    divided, plain = with_few_values(Models()), with_few_values(Models())
    shard(divided)
    calls = []
    with counted(calls):
        found = count_numbers(divided, divided.ties("a", "b", "c"))
        compared = compare_ties([tie.tensors() for tie in divided.ties("a", "b", "c")])
    assert found == count_numbers(plain, plain.ties("a", "b", "c"))
    assert 0 < found.zeros < found.total - found.unique
    expected = compare_ties([tie.tensors() for tie in plain.ties("a", "b", "c")])
    for own, other in zip(compared, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-12)
    assert 0 < expected[0].equal < expected[0].numel
    assert calls == ([] if shard is in_copies else ["all_reduce"] * 3)
    # A part of the module is not sharded, members are transposed, or ties have members in common.
    parts, turned, several = (with_few_values(Models(turned)) for turned in (False, True, False))
    shard(parts.a)
    shard(turned)
    shard(several)
    assert count_numbers(parts, parts.ties("a", "b", "c")) == found
    whole_turned = with_few_values(Models(turned=True))
    expected = count_numbers(whole_turned, whole_turned.ties("a", "b", "c"))
    assert count_numbers(turned, turned.ties("a", "b", "c")) == expected
    overlapping = [*several.ties("a", "b"), *several.ties("b", "c")]
    expected = count_numbers(plain, [*plain.ties("a", "b"), *plain.ties("b", "c")])
    assert count_numbers(several, overlapping) == expected


def clusters_of(name, shard):
    """Members are equal if their slices are on all processes; it takes one message."""
    divided, plain = Models(), Models()
    for module in (divided, plain):
        with torch.no_grad():
            module.c.row.copy_(module.a.row)
            module.c.weight.copy_(module.a.weight)
            # A difference in one number of the last row: the first process does not have it.
            module.b.weight.copy_(module.a.weight)
            module.b.weight[-1, -1] += 1.0
    shard(divided)
    calls, ties = [], Ties("a.*", "b.*", "c.*")
    with counted(calls):
        report = clusters(divided, ties)
    assert report == clusters(plain, ties)
    assert [tie.labels for tie in report.ties] == [(0, 1, 0), (0, 1, 0)]
    assert calls == ([] if shard is in_copies else ["all_reduce"])
    turned = Models(turned=True)
    with torch.no_grad():
        turned.b.weight.copy_(turned.c.weight.T)
    shard(turned)
    found = cluster_ties(turned.ties("a", "b", "c"))
    assert [tie.labels for tie in found.ties] == [(0, 1, 1), (0, 1, 2)]
    # Whole parameters, which a forward pass without gradients leaves, are compared as shards.
    with torch.no_grad():
        divided()
    assert clusters(divided, ties) == report


def clusters_with_ddp(name):
    """Clusters stay shared, and are the same on both processes, without a message."""
    module, ties, calls = Models(), Ties("a.weight", "b.weight", "c.weight"), []
    with torch.no_grad():
        module.c.weight.copy_(module.a.weight)
    share(module, ties, where="equal")
    wrapped = nn.parallel.DistributedDataParallel(module)
    penalty = PenaltySteps(PENALTIES[name](center="mean"), ties, 0.1)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.1)
    penalty.attach(module, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        ((distributed.get_rank() + 1) * wrapped()).backward()
        penalty.before_step()
        optimizer.step()
        penalty.after_step()
    verify_shared(wrapped)
    assert module.a.weight is module.c.weight
    with counted(calls):
        (tie,) = clusters(wrapped, ties).ties
    assert (tie.labels, calls) == ((0, 1, 0), [])
    both = [torch.empty_like(module.a.weight) for _ in range(2)]
    distributed.all_gather(both, module.a.weight.detach())
    assert torch.equal(*both)


def shared_clusters(name):
    """A Parameter for each cluster, made before `fully_shard`, is found and penalised as one."""
    divided, plain = Models(), Models()
    ties = Ties("a.weight", "b.weight", "c.weight")
    for module in (divided, plain):
        with torch.no_grad():
            module.b.weight.copy_(module.a.weight)
        share(module, ties, where="equal")
    fsdp(divided)
    assert divided.a.weight is divided.b.weight
    report = clusters(divided, ties)
    assert report == clusters(plain, ties)
    assert [tie.labels for tie in report.ties] == [(0, 0, 1)]
    penalty = PENALTIES[name](center="mean")
    for module in (divided, plain):
        module().backward()
        found = ties.find(module)
        add_penalty_gradient(module, penalty, found, 0.5)
        apply_prox(module, penalty, found, 0.25)
    assert_moved_alike(divided, plain)


def precisions(name):
    """Elements have their weights in every shard, also of transposes, and live ones of Adam."""
    penalty = PENALTIES[name](center="mean")
    made = {"ab": Models(), "abc": Models(turned=True)}
    for (roots, model), live in product(made.items(), (False, True)):
        divided, plain = copy.deepcopy(model), copy.deepcopy(model)
        fsdp(divided)
        given = {n: w.detach().square() for n, w in plain.named_parameters()}
        values = []
        for module in (divided, plain):
            optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
            patterns = [f"{r}.weight{'.T' if r == 'c' else ''}" for r in roots]
            own = PenaltySteps(penalty, patterns, 0.5, precision="adam" if live else given)
            own.attach(module, optimizer)
            for _ in range(3):
                optimizer.zero_grad()
                module().backward()
                own.before_step()
                optimizer.step()
                own.after_step()
            values.append((own.value(), own.state_dict()["precision"]))
        assert_moved_alike(divided, plain)
        assert values[0][0] == pytest.approx(values[1][0], rel=1e-9)
        assert values[0][0] > 0.0
        torch.testing.assert_close(values[0][1], values[1][1])
        other = copy.deepcopy(model)
        optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            other().backward()
            optimizer.step()
        assert not torch.allclose(other.a.weight, plain.a.weight, atol=1e-3)


def not_finite(name):
    """All processes raise if one of them has NaN, after one message for all members."""
    module, calls = Models(), []
    fsdp(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    steps = PenaltySteps(PENALTIES[name](center="mean"), Ties("a.*", "b.*"), 0.1)
    steps.attach(module, optimizer)
    with counted(calls):
        steps.end_epoch()
    assert calls == ["all_reduce"]
    if distributed.get_rank() == 1:
        module.b.weight.to_local().detach().fill_(float("nan"))
    with pytest.raises(ValueError, match=r"'b\.weight' has NaN or infinite numbers after 0 steps"):
        steps.end_epoch()


def weights_are_checked(name):
    """The weights of OWL are checked without a message."""
    module, calls = Models(), []
    fsdp(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    good, bad = OwlWeights(lambda1=1.0, lambda2=0.1), torch.ones(COLUMNS + 1)
    with counted(calls):
        PenaltySteps(Penalty("owl", "input", "zero", good), ["*.weight"], 0.1).check(
            module, optimizer
        )
        wrong = PenaltySteps(Penalty("owl", "input", "zero", bad), ["*.weight"], 0.1)
        with pytest.raises(ValueError, match=r"a\.weight: OWL needs one weight .*: 4 groups"):
            wrong.check(module, optimizer)
    assert calls == []


def some_are_plain(name):
    module = Models()
    fsdp(module.a)
    with pytest.raises(
        ValueError,
        match=r"a\.weight, b\.weight: some of these members are sharded, and others are not",
    ):
        add_penalty_gradient(module, PENALTIES[name](center="mean"), module.ties("a", "b"), 0.5)


def other_meshes(name):
    module = Models()
    fsdp(module.a)
    fsdp(module.b, init_device_mesh("cpu", (1, 2), mesh_dim_names=("copies", "shards")))
    with pytest.raises(
        ValueError, match=r"a\.weight, b\.weight: these members are sharded over different meshes"
    ):
        apply_prox(module, PENALTIES[name](center="mean"), module.ties("a", "b"), 0.5)


def rows_of_others(name):
    """A norm and a center that the library does not have."""
    norm, groups = name.split()
    with registered():
        PENALTIES[name] = partial(Penalty, norm, groups)
        for shard in (fsdp, columns):
            alike(name, shard, cases=("ab middle",))


def on_graphs(name, shard):
    """Three members along edges: Gram matrices and distances are those of whole members."""
    kinds = ["adaptive", "chain"]
    if name.startswith("l1"):
        kinds.append("star")
    for edges in kinds:
        for turned in (False, True):
            penalty = PENALTIES[name](center="graph", edges=edges)
            divided, plain = Models(turned), Models(turned)
            shard(divided)
            move(divided, penalty, "abc")
            move(plain, penalty, "abc")
            for (_, w), (_, v) in zip(
                divided.named_parameters(), plain.named_parameters(), strict=True
            ):
                torch.testing.assert_close(whole(w.detach()), v.detach(), rtol=0, atol=1e-6)
                torch.testing.assert_close(whole(w.grad), v.grad, rtol=1e-9, atol=1e-9)
            value = PenaltySteps(penalty, ["*"], 0.5)
            other = PenaltySteps(penalty, ["*"], 0.5)
            value.module, other.module = divided, plain
            value.found, other.found = divided.ties(*"abc"), plain.ties(*"abc")
            assert value.value() == pytest.approx(other.value(), rel=1e-5)


# With the penalties that they are done for.
ALL, SOME, ONE = (
    list(PENALTIES),
    ["squared element", "l1 element", "l1 input", "l1 spectrum", "owl output"],
    ["l1 input"],
)
GRAPHS = ["squared element", *(f"l1 {groups}" for groups in ("element", "output", "tensor"))]
CHECKS = {
    "rows": (partial(alike, shard=fsdp, cases=ALL_CENTERS), ALL),
    "a transposed member": (partial(alike, shard=fsdp, turned=True), SOME),
    "columns": (partial(alike, shard=columns), SOME),
    "copies of shards": (partial(alike, shard=replicated), SOME),
    "along both": (partial(alike, shard=along_both), SOME),
    "copies": (partial(alike, shard=in_copies), SOME),
    "values, rows": (partial(values, shard=fsdp), ALL),
    "values, columns": (partial(values, shard=columns), SOME),
    "values, along both": (partial(values, shard=along_both), SOME),
    "values, copies": (partial(values, shard=in_copies), SOME),
    "one message": (one_message, ALL),
    "after a forward pass": (after_a_forward_pass, SOME),
    "inside, after a forward pass": (inside_after_a_forward_pass, SOME),
    "zeros again": (zeros_again, ["l1 element", "l1 output", "l1 input", "owl element"]),
    "counts, rows": (partial(counts, shard=fsdp), ONE),
    "counts, columns": (partial(counts, shard=columns), ONE),
    "counts, copies": (partial(counts, shard=in_copies), ONE),
    "clusters, rows": (partial(clusters_of, shard=fsdp), ONE),
    "clusters, columns": (partial(clusters_of, shard=columns), ONE),
    "clusters, copies": (partial(clusters_of, shard=in_copies), ONE),
    "clusters, DDP": (clusters_with_ddp, ["squared element", "l1 output"]),
    "shared clusters": (shared_clusters, ["squared element", "l1 element", "l1 output"]),
    "precisions": (precisions, ["squared element"]),
    "not finite": (not_finite, ONE),
    "weights are checked": (weights_are_checked, ONE),
    "some are plain": (some_are_plain, ONE),
    "other meshes": (other_meshes, ONE),
    "graphs, rows": (partial(on_graphs, shard=fsdp), GRAPHS),
    "graphs, columns": (partial(on_graphs, shard=columns), GRAPHS),
    "rows of others": (rows_of_others, ["half_huber output", "half_huber input"]),
}


def cells():
    for check, (_, penalties) in CHECKS.items():
        yield from product([check], penalties)
