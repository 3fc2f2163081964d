"""What two processes send, compared with the formulas of `benchmarks.scale`.

Each training is repeated without the strategy, so that what training itself sends is left out.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from benchmarks.scale._costs import (
    COSTS,
    EVENTS,
    ONE,
    TRAINING,
    G,
    N,
    P,
    Volume,
    b,
    evaluate,
    sizes,
)
from lit_share import Ramp, Regularize, Share, SharingMonitor, Ties
from lit_share.penalties import RECIPES

from .._two_processes import run_here
from ._kept import kept_bytes
from ._modules import (
    EPOCHS,
    EVEN,
    STEPS,
    UNEVEN,
    Columns,
    Pair,
    Resharded,
    Sharded,
    Turned,
    precision_of,
    shapes_of,
    trained,
    without,
)
from ._traffic import Sent, difference

PENALTIES = [name for name in COSTS if RECIPES[name].penalty is not None]
MODES = {
    "DDP": Pair,
    "FSDP2": Sharded,
    "FSDP2, resharded after the forward pass": Resharded,
}
ALL_STEPS, RANKS = EPOCHS * STEPS, 2


def needs_matrices(name):
    penalty = RECIPES[name].penalty
    return penalty is not None and penalty.grouping.min_ndim(2) == 2


def ties_of(name):
    """All parameters that fit the penalty."""
    return Ties("a.*", "b.*", exclude=["*.bias"] if needs_matrices(name) else [])


def sizes_of(name, widths=EVEN):
    """What the symbols of the formulas stand for."""
    shapes = shapes_of(widths, needs_matrices(name))
    return sizes(RECIPES[name].penalty, shapes, members=2, ranks=RANKS, parameters=8)


def predicted(volumes, of, times=1):
    """What formulas say, by the kind of messages."""
    sent = {}
    for v in volumes:
        messages, payload = (times * whole(evaluate(f, of)) for f in (v.messages, v.payload))
        before = sent.get(v.kind, Sent(0, 0))
        if payload > 0 or v.kind == "barrier":
            sent[v.kind] = Sent(before.messages + messages, before.payload + payload)
    return sent


def whole(number):
    assert number == int(number)
    return int(number)


def sent_of(name):
    """The formula of what a step sends. The members of all ties here are pairs."""
    penalty = RECIPES[name].penalty
    if penalty is not None and penalty.centering.has_edges and COSTS[name].sent != 0:
        return COSTS["layer_tie"].sent
    return COSTS[name].sent


def of_steps(name, of, times=ALL_STEPS):
    penalty = RECIPES[name].penalty
    steps = predicted([Volume("all-reduce", ONE, sent_of(name))], of, times)
    if penalty is None or not penalty.is_adaptive:
        return steps
    (first,) = predicted(EVENTS["first step"].volumes, of).values()
    (each,) = steps.values()
    return {"all-reduce": Sent(each.messages + first.messages, each.payload + first.payload)}


def of_epochs(of):
    return predicted(EVENTS["epoch"].volumes, of, EPOCHS)


def assert_sends(more, less, phases=("start", "step", "epoch", "checkpoint"), **expected):
    """Compare the difference of two trainings with what is expected, and with nothing elsewhere."""
    for phase in phases:
        found, right = difference(more.of(phase), less.of(phase)), expected.get(phase, {})
        assert found == right, f"{phase}: sent {found}, expected {right}"


def regularize(name, widths=EVEN):
    return Regularize(name, ties_of(name), 0.1, **precision_of(RECIPES[name].penalty, Pair(widths)))


def penalty_sends(name, kind):
    """At most one message for each step, and one at the end of an epoch; nothing with DDP."""
    of = sizes_of(name)
    more, _ = trained(kind, regularize(name))
    if kind is Pair:
        assert_sends(more, without(kind))
        return
    saved = {}
    if RECIPES[name].penalty.centering.needs_start:
        times = 1 + RECIPES[name].penalty.needs_precision
        saved = predicted(EVENTS["starting values"].volumes, of, times)
    sent = {"step": of_steps(name, of), "epoch": of_epochs(of), "checkpoint": saved}
    assert_sends(more, without(kind), **sent)


def unequal_shards(name):
    """The same where ranks have shards of different lengths, or none."""
    of = sizes_of(name, UNEVEN)
    more, _ = trained(Sharded, regularize(name, UNEVEN), widths=UNEVEN)
    less = without(Sharded, UNEVEN)
    # Checkpoints pad short shards.
    phases = ("start", "step", "epoch")
    assert_sends(more, less, phases, step=of_steps(name, of), epoch=of_epochs(of))


def training_sends(name, mode):
    """What training itself sends; with one copy of the members, that of one member."""
    of, callbacks = dict(sizes_of(name)), []
    if name == "hard_tie":
        of[N] = 1
        callbacks = [Share(ties_of(name))]
    traffic, _ = trained(MODES[mode], *callbacks)
    sent = traffic.of("step")
    for kind, payload in TRAINING[mode].items():
        assert sent[kind].payload == ALL_STEPS * evaluate(payload, of), kind
    if name == "hard_tie":
        # DDP broadcasts the indices of its parameters once; the callback itself sends nothing.
        own = {"all-reduce", "all-gather", "reduce-scatter", "broadcast"}
        more = difference(traffic.of("step"), without(MODES[mode]).of("step"))
        assert set(more) <= own
        assert all(change.messages == 0 for change in more.values())
        assert_sends(traffic, without(MODES[mode]), ("start", "epoch"))


def columns(name):
    """Groups that are columns lie within the shards of dimension 1, and units do not."""
    of, sent = sizes_of(name), {}
    if name == "unit_tie":
        # Biases have one dimension, which is sharded.
        units = evaluate(G, of) - sum(shape[0] for shape in shapes_of(EVEN) if len(shape) == 1)
        sent = {"all-reduce": Sent(ALL_STEPS, ALL_STEPS * 8 * int(units))}
    more, _ = trained(Columns, Regularize(name, ties_of(name), 0.1))
    assert_sends(more, without(Columns), ("start", "step", "epoch"), step=sent, epoch=of_epochs(of))


def once_per_optimizer_step(name):
    """Accumulated gradients are of one step."""
    of, options = sizes_of(name), {"accumulate_grad_batches": STEPS}
    more, _ = trained(Sharded, Regularize(name, ties_of(name), 0.1), **options)
    less = without(Sharded, **options)
    assert_sends(more, less, step=of_steps(name, of, EPOCHS), epoch=of_epochs(of))


def once_per_epoch(name):
    of = sizes_of(name)
    more, _ = trained(Sharded, Regularize(name, ties_of(name), 0.1, every="epoch"))
    (step,), (epoch,) = (own.values() for own in (of_steps(name, of, EPOCHS), of_epochs(of)))
    both = Sent(step.messages + epoch.messages, step.payload + epoch.payload)
    assert_sends(more, without(Sharded), epoch={"all-reduce": both})


def as_gradient(name):
    """A gradient needs the same statistics as a proximal step."""
    of = sizes_of(name)
    more, _ = trained(Sharded, Regularize(name, ties_of(name), 0.1, apply="gradient"))
    assert_sends(more, without(Sharded), step=of_steps(name, of), epoch=of_epochs(of))


def of_strength_zero(name):
    """Steps before a ramp begins send nothing."""
    of, ramp = sizes_of(name), Ramp(duration=1, begin=1)
    more, _ = trained(Sharded, Regularize(name, ties_of(name), 0.1, schedule=ramp))
    last = of_steps(name, of, ALL_STEPS - 2)
    assert_sends(more, without(Sharded), step=last, epoch=of_epochs(of))


def in_half_precision(name):
    """Statistics are float64, whatever the members are."""
    of, options = sizes_of(name), {"precision": "bf16-true"}
    more, _ = trained(Sharded, Regularize(name, ties_of(name), 0.1), **options)
    less = without(Sharded, **options)
    assert_sends(more, less, step=of_steps(name, of), epoch=of_epochs(of))


def two_penalties(name):
    """Each has a message of its own."""
    sent = {}
    for phase, own in (("step", of_steps), ("epoch", lambda _, of: of_epochs(of))):
        (one,), (other,) = (own(n, sizes_of(n)).values() for n in (name, "layer_tie"))
        both = Sent(one.messages + other.messages, one.payload + other.payload)
        sent[phase] = {"all-reduce": both}
    more, _ = trained(Sharded, *(Regularize(n, ties_of(n), 0.1) for n in (name, "layer_tie")))
    assert_sends(more, without(Sharded), **sent)


def masks(name):
    """Checkpoints gather masks whose groups lie within shards."""
    of, penalty = sizes_of(name), RECIPES[name].penalty
    keep = {"keep_zeros": True} if penalty.makes_zeros else {"keep_tied": True}
    more, _ = trained(Sharded, Regularize(name, ties_of(name), 0.1, **keep))
    saved = {}
    if COSTS[name].sent == 0:
        saved = predicted(EVENTS["masks"].volumes, of)
    sent = {"step": of_steps(name, of), "epoch": of_epochs(of), "checkpoint": saved}
    assert_sends(more, without(Sharded), **sent)


def transposed(name):
    """A transposed member is redistributed in each step, there and back.

    NCCL would send each rank its part, where gloo gathers.
    """
    matrix = evaluate(P * b, sizes(None, [shapes_of(EVEN)[0]], members=2))
    times = 2
    # Starting values are redistributed, too, but not back.
    if name == "l2_sp":
        times = 3
    ties = Ties("a.weight", "b.weight.T")
    more, _ = trained(Turned, Regularize(name, ties, 0.1))
    gathers = {
        phase: Sent(count, count * int(matrix))
        for phase, count in (("start", 2 * (times - 1)), ("step", ALL_STEPS * times))
    }
    of = sizes(RECIPES[name].penalty, [shapes_of(EVEN)[0]], members=2)
    step = {"all-gather": gathers["step"]} | of_steps(name, of)
    start = {"all-gather": gathers["start"]}
    phases = ("start", "step", "epoch")
    assert_sends(more, without(Turned), phases, start=start, step=step, epoch=of_epochs(of))


def kept(name):
    """The ranks together keep what a single process does."""
    module, penalty = Pair(), replace(RECIPES[name].penalty)
    mesh = init_device_mesh("cpu", (RANKS,))
    fully_shard(module, mesh=mesh)
    of = sizes_of(name)
    options = precision_of(penalty, Pair())
    total = torch.tensor(kept_bytes(penalty, ties_of(name), module, **options))
    distributed.all_reduce(total)
    assert total == RANKS * evaluate(COSTS[name].kept, of)


def monitored(name, kind):
    """A message of distances at the start, and a few in each epoch; the rest is Lightning's."""
    of, penalty = sizes_of(name), regularize(name)
    start, epoch = {}, list(EVENTS["monitor, log"].volumes)
    if kind is not Pair:
        start = predicted(EVENTS["monitor, start"].volumes, of)
        value = EVENTS["monitor, penalty"].volumes
        if sent_of(name) != 0:
            value = (Volume("all-reduce", ONE, sent_of(name)),)
        epoch += [*EVENTS["epoch"].volumes, *EVENTS["monitor, epoch"].volumes, *value]
    more, _ = trained(kind, penalty, SharingMonitor())
    less = without(kind)
    sent = {"start": start, "epoch": predicted(epoch, of, EPOCHS)}
    if kind is not Pair:
        sent["step"] = of_steps(name, of)
    assert_sends(more, less, ("start", "step", "epoch"), **sent)


STATISTICS = [name for name in PENALTIES if COSTS[name].sent != 0]
CHECKS = {
    "DDP": (partial(penalty_sends, kind=Pair), PENALTIES),
    "FSDP2": (partial(penalty_sends, kind=Sharded), PENALTIES),
    "FSDP2, unequal shards": (unequal_shards, PENALTIES),
    "FSDP2, columns": (columns, ["unit_tie", "group_lasso", "joint_lasso", "exact_tie"]),
    "FSDP2, once per optimizer step": (once_per_optimizer_step, ["soft_tie", "layer_tie"]),
    "FSDP2, once per epoch": (once_per_epoch, STATISTICS),
    "FSDP2, as a gradient": (as_gradient, ["layer_tie", "growl", "unit_tie"]),
    "FSDP2, strength 0": (of_strength_zero, ["layer_tie", "growl"]),
    "FSDP2, bfloat16": (in_half_precision, ["layer_tie", "group_lasso", "soft_tie"]),
    "FSDP2, two penalties": (two_penalties, ["growl", "trace_norm"]),
    "FSDP2, masks": (masks, ["lasso", "group_lasso", "exact_tie", "unit_tie", "layer_tie"]),
    "FSDP2, transposed": (transposed, ["soft_tie", "exact_tie", "layer_tie", "l2_sp"]),
    "FSDP2, kept": (kept, PENALTIES),
    "DDP, monitored": (partial(monitored, kind=Pair), ["soft_tie", "growl"]),
    "FSDP2, monitored": (partial(monitored, kind=Sharded), PENALTIES),
    **{
        f"training itself, {mode}": (partial(training_sends, mode=mode), ["none", "hard_tie"])
        for mode in TRAINING
    },
}


def cells():
    for check, (_, names) in CHECKS.items():
        yield from product([check], names)


def table():
    """All that is run, by its name."""
    return {f"{check} | {name}": partial(CHECKS[check][0], name) for check, name in cells()}


if __name__ == "__main__":
    run_here(table(), sys.argv[1])
