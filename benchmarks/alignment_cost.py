"""What aligning two models costs: `python -m benchmarks.alignment_cost`.

Each pair has random weights, which takes more rounds of matching than trained ones do, and is
aligned on one thread in a process of its own. The additional memory is the peak of this process
above that of one that only holds the models, without what the same code takes for a tiny model.
Freed memory goes back at once, so that the peak is what is in use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import fmean
from typing import NamedTuple

from benchmarks._tables import print_head, print_row

REPEATS = 3
# What is aligned: a network's expression, and the shape of its inputs.
NETWORKS = {
    "MLP, 3 × 512": ("mlp(784, 512, 512, 512, 10)", (16, 784)),
    "MLP, 3 × 2048": ("mlp(784, 2048, 2048, 2048, 10)", (16, 784)),
    "transformer, 3 × 512": ("transformer(512)", (2, 8, 512)),
}
TINY = {"mlp": ("mlp(8, 8, 8, 8, 10)", (16, 8)), "transformer": ("transformer(8)", (2, 8, 8))}
CODE = """
import resource, time, torch, lit_share as ls
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
def mlp(*widths):
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
def transformer(width):
    layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
pair = nn.ModuleDict({name: NETWORK for name in "ab"})
inputs = torch.randn(*SHAPE)
begin = time.process_time()
if BY:
    ls.align(pair, ls.Ties("a.*", "b.*"), inputs, by=BY)
seconds, peak = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds, peak / 2**10, sum(p.numel() for p in pair["b"].parameters()))
"""


class Cost(NamedTuple):
    """What one process took.

    Attributes:
        seconds: The CPU time of aligning.
        peak: Its memory in MiB.
        numbers: The parameters of each model.
    """

    seconds: float
    peak: float
    numbers: int


def run(network: str, shape: tuple[int, ...], by: str | None) -> Cost:
    """Align in a process of its own, or only make the models."""
    code = CODE.replace("NETWORK", network).replace("SHAPE", repr(shape))
    code = code.replace("BY", repr(by))
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    seconds, peak, numbers = done.stdout.split()
    return Cost(float(seconds), float(peak), int(numbers))


def above_holding(network: str, shape: tuple[int, ...], by: str) -> float:
    """Return the additional peak in MiB."""
    return run(network, shape, by).peak - run(network, shape, None).peak


def main() -> None:
    """Print a table with a row for each network and way of matching."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    repeats = range(parser.parse_args().repeats)
    columns = ("parameters", "one model, MiB", "additional MiB", "of one model", "seconds")
    print_head("", *columns)
    for name, (network, shape) in NETWORKS.items():
        for by in ("weights", "activations"):
            tiny = fmean(above_holding(*TINY[network.partition("(")[0]], by) for _ in repeats)
            costs = [run(network, shape, by) for _ in repeats]
            held = fmean(run(network, shape, None).peak for _ in repeats)
            additional = fmean(cost.peak for cost in costs) - held - tiny
            size = costs[0].numbers * 4 / 2**20
            print_row(
                [
                    f"{name}, by {by}",
                    f"{costs[0].numbers:,}",
                    f"{size:.0f}",
                    f"{additional:.0f}",
                    f"{additional / size:.2f}",
                    f"{fmean(cost.seconds for cost in costs):.1f}",
                ]
            )


if __name__ == "__main__":
    main()
