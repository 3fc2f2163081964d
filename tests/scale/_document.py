"""The formulas as a page."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import fill

from sympy import Expr, latex

from benchmarks.scale.__main__ import HEADS, TOKENS, rows, title
from benchmarks.scale._costs import COSTS, EVENTS, SYMBOLS, TRAINING, N, P, S, b
from benchmarks.scale._example import Decoder, Machine
from benchmarks.scale._operations import count
from lit_share.penalties import RECIPES

REPORT = "2026-11-29"
FILE = Path(__file__).parents[2] / "benchmarks" / "reports" / f"{REPORT}.md"
# What the report compares with, for each pair of float32 numbers.
FLOORS = {"soft_tie": 24, "exact_tie": 16, "unit_tie": 16, "layer_tie": 16}

HEAD = """\
# Scale

What a strategy costs in memory traffic, messages and memory, in one process, with DDP and with
FSDP2 (`fully_shard`): as formulas, and for a pair of large models on many GPUs.

`pytest -m slow tests/scale` trains in two processes with and without each strategy, counts every
collective of both trainings, and compares the difference with these formulas: number and bytes of
the messages must be equal. It also finds the tensors that a penalty keeps.
`pytest tests/scale -k page --write-docs` generates this page.

"""

STEP = """
## In each optimizer step

On each rank, in bytes. Sums over ties are meant, so that ties may differ in shape.

"""

STEP_NOTES = """
- **Memory traffic** is what each pass over the members reads and writes. Members are read once, or
  twice if all norms have to be known before any member moves. How much more is really moved is
  below.
- **One process, DDP**: penalties send nothing, at any time. With DDP each rank has all members, and
  takes the same step.
- **FSDP2**: each rank moves its shards. If groups lie within shards, nothing is sent. If groups
  span shards, or OWL compares all of them, statistics of all groups are all-reduced, in float64
  whatever the members are: one message for all ties of a penalty. In a ring, a rank sends
  {ring} times the bytes of the message. Where several sets of ranks hold
  copies of the shards (HSDP), each set sends for itself, and $S$ is its size.
- The table is for shards along dimension 0, as `fully_shard` makes them. With shards along
  dimension 1, units span shards, so that `unit_tie` sends $8 G$ bytes for its matrices; columns do
  not, so that `group_lasso` and `joint_lasso` send nothing.
- A step of several accumulated batches sends one message. `every="epoch"` sends one in each epoch.
  Steps of strength 0, as before a ramp, send none. Two penalties send two.
- `trace_norm` of single matrices sends at most one float64 number for each number of a matrix.
- A **transposed member** (`.T`) is sharded along the other dimension. Each step redistributes it
  twice, there and back, and its starting values once. With gloo, which the tests use, this gathers
  the $P b$ bytes of the member on every rank; with NCCL each rank receives its part.
- `value_tie` has no row, because it sorts the numbers of a tensor (`[...]`), whose time no count of
  bytes predicts: `python -m benchmarks.speed value_prox` compares it with `torch.sort`. It sends
  nothing, and refuses parameters that `fully_shard` has sharded.
- `keep_zeros` and `keep_tied` keep a mask of $G$ bytes. With several optimizers, the gradients of
  smooth penalties are kept from the first optimizer's step to the next backward pass:
  {increments} bytes.

**`hard_tie`** costs nothing, and makes training itself cheaper. Of tied members, training sends in
each step, with $N = 1$ for one copy:

"""

OTHERS = """
## At other times

With FSDP2. With DDP only the last row is sent, and nothing in one process.

"""

HOST = """
## Measured on the host

Bytes that compiled loops move for each pair of float32 numbers, from
[the report](benchmarks.md) of {report}, made by
`python -m benchmarks.speed --threads 1 2 --report FILE`. It compares the time of a step with that
of moving a floor of bytes at full speed; their product is what is moved in that time. `unit_tie`
moves a unit while it is in the cache. `layer_tie` reads members twice, which its floor of one read
and one write does not count. The last column is the
peak of memory for two encoders of 25 million numbers, beyond that of training and of the compiler:
a penalty allocates blocks that fit into the cache.

"""

GPU = """
## Counted for a GPU

GPUs, half precision, and FSDP2 where statistics are sent go through plain torch, a kernel for each
operation. `python -m benchmarks.scale` counts what each operation reads and writes for a pair of
large float32 matrices. That is the most that a GPU moves, as some of it stays in its cache. Nothing
here is measured.

"""

GPU_NOTES = """
- **Temporaries** are those of a block of $2^{21}$ pairs if every element is a group, else of the
  largest tie (with FSDP2, of its shard). If statistics are sent, all of them are there twice.
- If statistics are sent, deviations are computed twice: to keep those of all ties would take as
  much memory as the members.
- Norms of OWL go to the host and back in each step, and the host of every rank sorts all $G$ of
  them.

"""

EXAMPLE = """## Example: a pair of 7-billion-parameter models on 64 GPUs

This is a prediction, not a measurement. It evaluates the formulas above for the shapes of a
decoder such as Llama 2 with 7 billion parameters, with float32 members that FSDP2 shards over all
GPUs, and assumes:

- memory: {memory:.3g} bytes per second; network: {network:.3g} bytes per second for each GPU;
- {latency:.3g} s for an all-reduce of a few bytes, and {launch:.3g} s for the host to launch an
  operation;
- {flops:.3g} operations per second of each GPU in training, six for each weight and token.

`python -m benchmarks.scale` prints this table, and has options for all of these numbers:

```bash
python -m benchmarks.scale --members 2 --gpus 64 --network 5e10 --tokens 1048576
```

{title}

"""

EXAMPLE_NOTES = """
- **Time** is the longer of moving bytes and launching operations, plus the message, as if the GPU
  waited for the host. The shards of a tie are so small on {gpus} GPUs that launching takes longer
  than moving, for every strategy. Where the host runs ahead of the GPU, less of it is seen.
- **Messages** are small beside the weights and gradients that training sends, except for `oscar`,
  whose statistics are as many as the weights: it does not fit into the memory of a GPU.
- `growl` and `oscar` have no time here, as the host of every rank sorts all norms in each step.
- `l2_sp` keeps one more copy of the weights, sharded; a checkpoint gathers it, on the host of every
  rank.
- `hard_tie` costs nothing, and halves what training sends and stores of the tied weights.
"""


def math_of(formula: Expr) -> str:
    """A formula, or nothing for 0."""
    return f"${latex(formula)}$" if formula != 0 else ""


def table(heads, lines) -> str:
    """A table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def reported(question: str, threads: str) -> dict[tuple[str, str], str]:
    """The medians of a question of the report, by what and against what."""
    sections = FILE.read_text(encoding="utf-8").split("\n## ")
    (section,) = [s for s in sections if s.startswith(f"{question}, {threads}")]
    lines = re.findall(r"^\| (.*?) \| (.*?) \| (\S+) ", section, re.MULTILINE)
    return {(what, against): median for what, against, median in lines}


def on_the_host():
    for name, floor in FLOORS.items():
        cells = [f"`{name}`", str(floor)]
        for threads in ("1 thread", "2 threads"):
            medians = reported("penalty_step", threads)
            for model in ("ResNet-18", "encoder, 25 M"):
                cells.append(f"{floor * float(medians[f'{name}, {model}', 'floor']):.3g}")
        peaks = reported("peak_memory", "1 thread")
        peak = peaks[f"{name}, encoders of 25 M, beyond these", "above training without"]
        yield [*cells, f"{peak} MiB"]


def on_a_gpu():
    for name, cost in COSTS.items():
        penalty = RECIPES[name].penalty
        if penalty is None:
            continue
        pair = {N: 2, P: 1, S: 1, b: 4}
        least = float(cost.traffic.subs(pair))
        counted = count(penalty, 2)
        ratio, temporaries = f"{counted.traffic / least:.2g}", f"{counted.temporaries:.3g}"
        moved = f"{counted.traffic:.3g}"
        yield [f"`{name}`", f"{least:.3g}", moved, ratio, str(counted.launches), temporaries]


def volumes_of(event) -> list[str]:
    """Messages and bytes of an event."""
    messages = [f"{math_of(v.messages)} × {v.kind}" for v in event.volumes]
    payloads = [math_of(v.payload) or "0" for v in event.volumes]
    return [", ".join(messages), ", ".join(payloads)]


def page() -> str:
    model, machine = Decoder(), Machine()
    assumed = {name: getattr(machine, name) for name in ("memory", "network", "latency")}
    assumed |= {"launch": machine.launch, "flops": machine.flops}
    step = [
        [f"`{name}`", math_of(c.traffic), math_of(c.sent), math_of(c.kept)]
        for name, c in COSTS.items()
    ]
    training = [
        [mode, ", ".join(f"{kind} of {math_of(payload)}" for kind, payload in sent.items())]
        for mode, sent in TRAINING.items()
    ]
    hosts = [f"{net}, {t}" for t in ("1 thread", "2") for net in ("ResNet-18", "encoder")]
    example = [[f"`{name}`", *cells] for name, *cells in rows(model, machine, 2, TOKENS)]
    return "".join(
        [
            HEAD,
            table(["symbol", ""], [[f"${latex(s)}$", text] for s, text in SYMBOLS.items()]),
            STEP,
            table(["strategy", "memory traffic", "sent with FSDP2, at once", "kept"], step),
            STEP_NOTES.format(ring=math_of(2 * (S - 1) / S), increments=math_of(N * P * b / S)),
            table(["mode", "training itself sends"], training),
            OTHERS,
            table(
                ["when", "what", "messages", "bytes"],
                [[e.when, e.what, *volumes_of(e)] for e in EVENTS.values()],
            ),
            HOST.format(report=REPORT),
            table(["strategy", "floor", *hosts, "peak"], on_the_host()),
            GPU,
            table(
                [
                    "strategy",
                    "formula above",
                    "bytes of a pair",
                    "ratio",
                    "operations of a tie",
                    "temporaries of a pair",
                ],
                on_a_gpu(),
            ),
            GPU_NOTES,
            EXAMPLE.format(title=fill(title(model, machine, 2, TOKENS) + ".", 100), **assumed),
            table(HEADS, example),
            EXAMPLE_NOTES.format(gpus=machine.gpus),
        ]
    )
