"""Whether sharing shortens training: `python -m benchmarks.sharing_time`.

Plain loops with Adam on one thread, on real digits. Positions: images at random places of 12×12
canvases, for a net with filters of their own at each position and for the same net with shared
ones, a convolution. Pairs: two MLPs, one of 500 upright and one of 50 turned digits, apart and as
one. In a step both see a batch, and the optimizer steps after each of them ("in turn") or once
after both ("together").

A step is forward, backward and optimizer, in CPU time: the median over all runs. Its updates are
the numbers that the optimizer writes. A net has reached the target when its accuracy on 300
validation images is that high (that of the worse one of a pair), asked every few steps outside the
clock. Contestants alternate and start from the same values. Means ± standard deviations are over
those seeds that reach it, and ratios over those that do so both ways.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lit_share as ls
from lit_share.lab.data import PairedDomains, PlacedImages
from lit_share.lab.models import CNN, MLP

SEEDS = range(10)


@dataclass
class Member:
    """A net, and the images that it learns from and is judged by."""

    net: nn.Module
    train: DataLoader
    val: DataLoader

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches, without end."""
        while True:
            yield from self.train

    @torch.no_grad()
    def accuracy(self) -> float:
        """The share of validation images that the net gets right."""
        right = sum(int((self.net(x).argmax(1) == y).sum()) for x, y in self.val)
        return right / len(self.val.dataset)  # type: ignore[arg-type]


@dataclass
class Run:
    """The cost of a training: seconds of its steps, numbers written in each, steps to target."""

    seconds: list[float]
    writes: int = 0
    reached: int | None = None
    accuracy: float = 0.0


Make = Callable[[int, bool], tuple[nn.Module, list[Member]]]


def positions(seed: int, shared: bool) -> tuple[nn.Module, list[Member]]:
    """A net for placed images."""
    data = PlacedImages(n_train=800, seed=seed)
    net = CNN(data.input_shape, data.num_classes, channels=(8, 16), grid=1, local=True)
    if shared:
        ls.share(net, ls.Ties("trunk.conv*[:]"))
    return net, [Member(net, data.train_dataloader(), data.val_dataloader())]


def pairs(seed: int, shared: bool, width: int = 64) -> tuple[nn.Module, list[Member]]:
    """Two nets, for upright and for turned digits."""
    data = PairedDomains(domain="rotated", amount=20, seed=seed)
    nets = nn.ModuleDict(
        {name: MLP(data.input_shape, 10, hidden=(width, width)) for name in ("a", "b")}
    )
    nets["b"].load_state_dict(nets["a"].state_dict())
    if shared:
        ls.share(nets, ls.Ties("a.*", "b.*"))
    train, val = data.train_dataloader(), data.val_dataloader()
    return nets, [Member(net, train[name], val[name]) for name, net in nets.items()]


def run(
    net: nn.Module, members: list[Member], target: float, steps: int, every: int, together: bool
) -> Run:
    """Train, with the clock stopped while data is read and accuracy is asked."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    streams = [member.batches() for member in members]
    stepped = [net] if together else [member.net for member in members]
    done = Run([], sum(p.numel() for module in stepped for p in module.parameters()))
    for step in range(1, steps + 1):
        batches = [next(stream) for stream in streams]
        begin = time.process_time()
        for member, (x, y) in zip(members, batches, strict=True):
            F.cross_entropy(member.net(x), y).backward()
            if together and member is not members[-1]:
                continue
            optimizer.step()
            optimizer.zero_grad()
        done.seconds.append(time.process_time() - begin)
        if step % every == 0:
            done.accuracy = min(member.accuracy() for member in members)
            if done.reached is None and done.accuracy >= target:
                done.reached = step
    return done


def contest(
    name: str, make: Make, target: float, steps: int, every: int, together: bool = False
) -> None:
    """Print a row for each contestant, and one for the ratio of shared to apart."""
    runs: dict[bool, list[Run]] = {False: [], True: []}
    for seed in SEEDS:
        for shared, done in runs.items():
            torch.manual_seed(seed)
            done.append(run(*make(seed, shared), target, steps, every, together))
    step = {
        key: statistics.median(t for one in done for t in one.seconds) for key, done in runs.items()
    }
    print(f"{name}, to {target} in at most {steps} steps")
    for shared, done in runs.items():
        reached = [one for one in done if one.reached]
        print(
            f"  {'shared' if shared else 'apart':10}{1e3 * step[shared]:>8.2f}{done[0].writes:>12,}"
            f"{_spread([one.reached or 0 for one in reached], 0):>16}"
            f"{_spread([sum(one.seconds[: one.reached]) for one in reached], 3):>18}"
            f"{len(reached):>6} of {len(done)}{_spread([one.accuracy for one in done], 3):>18}"
        )
    both = [(a, s) for a, s in zip(*runs.values(), strict=True) if a.reached and s.reached]
    in_steps = [(s.reached or 0) / (a.reached or 1) for a, s in both]
    in_seconds = [sum(s.seconds[: s.reached]) / sum(a.seconds[: a.reached]) for a, s in both]
    print(
        f"  {'ratio':10}{step[True] / step[False]:>8.2f}"
        f"{runs[True][0].writes / runs[False][0].writes:>12.3f}"
        f"{_spread(in_steps, 2):>16}{_spread(in_seconds, 2):>18}{len(both):>6} of {len(SEEDS)}\n"
    )


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) < 2:
        return "not reached"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    print(
        f"{'':12}{'ms/step':>8}{'updates':>12}{'steps':>16}"
        f"{'seconds':>18}{'reached':>11}{'last accuracy':>18}"
    )
    contest("Positions", positions, target=0.7, steps=960, every=8)
    wide = partial(pairs, width=512)
    contest("Pairs in turn", pairs, target=0.75, steps=200, every=1)
    contest("Pairs together", pairs, target=0.75, steps=200, every=1, together=True)
    contest("Wide pairs (512) together", wide, target=0.75, steps=200, every=1, together=True)


if __name__ == "__main__":
    main()
