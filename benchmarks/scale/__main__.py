"""Print what strategies cost a pair of language models: `python -m benchmarks.scale`.

This is a prediction from formulas and from the bandwidths that are given, and no measurement:
docs/scale.md has the formulas, and says which of them tests compare with what is really sent.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import fields

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.scale._example import (
    Decoder,
    Machine,
    predict,
    training_bytes,
    training_seconds,
)

HEADS = ("strategy", "moved", "operations", "sent", "kept", "temporaries", "time", "of a step")
TOKENS = 2**20
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def size(count: float) -> str:
    """Return bytes with three digits and a unit."""
    if count == 0.0:
        return ""
    factor, unit = next((f, u) for f, u in _UNITS if count >= f or f == 1.0)
    return f"{count / factor:.3g} {unit}"


def rows(model: Decoder, machine: Machine, members: int, tokens: int) -> list[list[str]]:
    """Return the cells of the table; strategies without a penalty have empty cells."""
    step = training_seconds(model, machine, members, tokens)
    cells = []
    for p in predict(model, machine, members):
        launches = time = fraction = ""
        if p.launches > 0:
            launches = f"{p.launches:,}"
        if p.seconds is None:
            time = "sorts on the host"
        elif p.seconds > 0.0:
            time, fraction = f"{1e3 * p.seconds:.3g} ms", f"{100.0 * p.seconds / step:.2g} %"
        sizes = [size(p.moved), launches, size(p.sent), size(p.kept), size(p.temporaries)]
        cells.append([p.strategy, *sizes, time, fraction])
    return cells


def title(model: Decoder, machine: Machine, members: int, tokens: int) -> str:
    """Return what the table is of."""
    numbers, ties = sum(map(math.prod, model.shapes())), len(model.shapes())
    step = training_seconds(model, machine, members, tokens)
    received = size(training_bytes(model, machine, members))
    return (
        f"{members} models of {numbers:,} numbers in {ties} tensors, on {machine.gpus} GPUs; a "
        f"training step of {tokens:,} tokens takes {step:.3g} s, and a GPU receives {received}"
    )


def parse(arguments: Sequence[str] | None = None) -> tuple[Decoder, Machine, int, int]:
    """Read the options: the model, the machine, the number of models, and tokens per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, name, default, text in (
        (int, "--members", 2, "models"),
        (int, "--layers", Decoder.layers, "layers of each model"),
        (int, "--width", Decoder.width, "width of the layers"),
        (int, "--hidden", Decoder.hidden, "hidden units of feed-forward layers"),
        (int, "--vocabulary", Decoder.vocabulary, "words"),
        (int, "--tokens", TOKENS, "tokens of a training step, for each model"),
        (int, "--gpus", Machine.gpus, "GPUs, which shard each parameter"),
        (float, "--memory", Machine.memory, "bytes per second of a GPU's memory"),
        (float, "--network", Machine.network, "bytes per second that a GPU sends"),
        (float, "--latency", Machine.latency, "seconds of an all-reduce of a few bytes"),
        (float, "--launch", Machine.launch, "seconds for the host to launch an operation"),
        (float, "--flops", Machine.flops, "operations per second of a GPU in training"),
    ):
        parser.add_argument(name, type=kind, default=default, help=f"{text} (%(default)s)")
    given = vars(parser.parse_args(arguments))
    model = Decoder(**{field.name: given[field.name] for field in fields(Decoder)})
    machine = Machine(**{field.name: given[field.name] for field in fields(Machine)})
    return model, machine, given["members"], given["tokens"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse(arguments)
    table = Table(*HEADS, title=title(*options), box=SIMPLE_HEAD, title_justify="left")
    for cells in rows(*options):
        table.add_row(*cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
