"""The figures of the documentation: `python docs/figures.py` draws them into `docs/figures`.

Those of the algebra are computed with `Penalty.prox` and drawn at once. `strength_path.svg` trains: a pair of digit
classifiers, of 500 grey images and of 50 in black and white, at each of `STRENGTHS`, for half a minute, and prints the
numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lit_share as ls
from lit_share.plots import OKABE_ITO
from lit_share.report import estimate
from lit_share.sharing import overall_distance

FOLDER = Path(__file__).parent / "figures"
BLACK, BLUE, RED, GREEN, ORANGE, SKY, PINK, _ = OKABE_ITO
GREY = "#999999"
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SEEDS = range(4)

Point = tuple[float, float]


def text(
    x: float,
    y: float,
    words: str,
    size: int = 13,
    anchor: str = "middle",
    color: str = BLACK,
) -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def line(points: Iterable[Point], color: str, width: float = 2.5, dash: str = "") -> str:
    """A line through points."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{width}"{dashed}/>'


def dot(
    x: float, y: float, color: str, radius: float = 5.0, fill: str | None = None
) -> str:
    """A round point."""
    style = f'fill="{fill or color}" stroke="{color}" stroke-width="1.5"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}/>'


def arrow(begin: Point, end: Point, color: str) -> str:
    """An arrow that stops short of its end."""
    (x0, y0), (x1, y1) = begin, end
    length = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    x1, y1 = x1 - 9 * ux, y1 - 9 * uy
    left, right = (
        (x1 - 8 * ux + 4 * uy, y1 - 8 * uy - 4 * ux),
        (x1 - 8 * ux - 4 * uy, y1 - 8 * uy + 4 * ux),
    )
    return line([(x0 + 8 * ux, y0 + 8 * uy), (x1, y1)], color, 2) + line(
        [left, (x1, y1), right], color, 2
    )


def save(
    name: str, width: int, height: int, title: str, parts: Sequence[str], folder: Path
) -> None:
    """Write a figure, on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" role="img"><title>{title}</title>'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    content = "\n".join([head, background, *parts, "</svg>"]) + "\n"
    (folder / f"{name}.svg").write_text(content, encoding="utf-8")


def shrinkage(folder: Path = FOLDER) -> None:
    """What a proximal step makes of group norms, norm by norm."""
    n = torch.linspace(0.0, 4.0, 41)
    several = torch.tensor([0.4, 0.7, 1.2, 1.5, 1.9, 2.0, 2.2, 2.3, 2.9, 3.05, 3.2, 3.8])
    weights = ls.owl_weights(len(several), lambda1=0.3, lambda2=0.2)
    drawn = {
        "squared: all smaller, none zero": (
            ls.Penalty("squared", "element", "zero"),
            n,
            BLUE,
        ),
        "l1: by one amount, down to zero": (ls.Penalty("l1", "element", "zero"), n, RED),
        "owl: also equal to each other": (
            ls.Penalty("owl", "element", "zero", weights),
            several,
            GREEN,
        ),
    }
    parts = []
    for i, (name, (penalty, norms, color)) in enumerate(drawn.items()):
        left = 45 + 265 * i

        def place(x: float, y: float, left: float = left) -> Point:
            return left + 50 * x, 240 - 50 * y

        (r,) = penalty.prox([norms], step=1.0)
        points = [place(float(x), float(y)) for x, y in zip(norms, r, strict=True)]
        parts += [
            text(*place(2.0, 4.35), name),
            line([place(0, 4), place(0, 0), place(4, 0)], BLACK, 1),
            line([place(0, 0), place(4, 4)], GREY, 1.2, "4 4"),
            line(points, color, 1.2 if penalty.norm == "owl" else 2.5),
            *(dot(*point, color, 4) for point in points if penalty.norm == "owl"),
            *(text(*place(tick, -0.35), str(tick), 11) for tick in range(5)),
            *(
                text(place(0, tick)[0] - 8, place(0, tick)[1] + 4, str(tick), 11, "end")
                for tick in range(1, 5)
            ),
            text(*place(2.0, -0.8), "group norm n before the step"),
        ]
    parts.append(text(16, 140, "r").replace("<text ", '<text font-style="italic" '))
    save("shrinkage", 835, 290, "Proximal step of the three norms", parts, folder)


def groups(folder: Path = FOLDER) -> None:
    """Which numbers of a weight are a group."""
    colors = [BLUE, RED, GREEN, ORANGE, SKY, PINK]
    outputs, inputs, cell = 4, 6, 22
    kinds = {
        "element": lambda row, column: colors[(2 * row + column) % 6],
        "output": lambda row, _: colors[row],
        "input": lambda _, column: colors[column],
        "tensor": lambda *_: colors[0],
    }
    parts = []
    for i, (name, color) in enumerate(kinds.items()):
        left, top = 40 + 172 * i, 52
        parts += [
            f'<rect x="{left + cell * column}" y="{top + cell * row}" width="{cell - 2}" height="{cell - 2}" '
            f'fill="{color(row, column)}" fill-opacity="0.8"/>'
            for row in range(outputs)
            for column in range(inputs)
        ]
        parts.append(text(left + cell * inputs / 2, 24, f'"{name}"', 15))
    parts += [
        text(106 + 172 * i, 182, words)
        for i, words in enumerate(("each number", "a row", "a column", "all"))
    ]
    left = 40 + 172 * 4
    for k, (color, length) in enumerate(zip(colors[:3], (1.0, 0.6, 0.35), strict=True)):
        x = left + 58 * k
        height, width = cell * outputs - 2, 36
        parts += [
            f'<rect x="{x}" y="52" width="6" height="{height}" fill="{color}" fill-opacity="{length}"/>',
            f'<rect x="{x + 9}" y="52" width="{width}" height="6" fill="{color}" fill-opacity="{length}"/>',
        ]
        if k:
            parts.append(text(x - 8, 100, "+", 15))
    parts += [
        text(left + 84, 24, '"spectrum"', 15),
        text(left + 84, 182, "a singular value"),
    ]
    parts += [
        text(24, 100, "outputs (dim 0)", 11).replace(
            "<text ", '<text transform="rotate(-90 24 100)" '
        ),
        text(106, 156, "inputs (dim 1)", 11),
    ]
    save(
        "groups",
        930,
        195,
        "The five groupings of a weight of 4 outputs and 6 inputs",
        parts,
        folder,
    )


def centers(folder: Path = FOLDER) -> None:
    """What members are pulled towards."""
    members = [(35.0, 70.0), (150.0, 50.0), (120.0, 150.0)]
    starts = [(75.0, 35.0), (185.0, 95.0), (60.0, 165.0)]
    middle = (fmean(x for x, _ in members), fmean(y for _, y in members))
    zero = (20.0, 190.0)
    goals: dict[str, list[Point]] = {
        "zero": [zero] * 3,
        "mean": [middle] * 3,
        "first": [members[0]] * 3,
        "start": starts,
    }
    parts = []
    for i, (name, ends) in enumerate(goals.items()):
        left, top = 10 + 225 * i, 40

        def at(point: Point, left: float = left, top: float = top) -> Point:
            return left + point[0], top + point[1]

        parts.append(text(left + 105, 24, f'"{name}"', 15))
        for j, (member, end) in enumerate(zip(members, ends, strict=True)):
            color = (BLUE, RED, GREEN)[j]
            if end != member:
                parts.append(arrow(at(member), at(end), color))
            parts.append(dot(*at(member), color, 6))
            x, y = at(member)
            parts.append(
                text(x, y + (24 if j == 2 else -11), f"W{'₁₂₃'[j]}", 13, color=color)
            )
            if name == "start":
                parts.append(dot(*at(end), color, 4, "white"))
        if name in ("zero", "mean"):
            parts.append(dot(*at(ends[0]), BLACK, 4, "white"))
            x, y = at(ends[0])
            parts.append(
                text(x + 8, y + 18, "0", 12)
                if name == "zero"
                else text(x - 6, y + 19, "mean", 12, "end")
            )
    save("centers", 910, 250, "The four centers", parts, folder)


def train(
    penalty: ls.Penalty | None, strength: float, seed: int, hard: bool = False
) -> tuple[float, float, float]:
    """Validation accuracy of the scarce model, distance of the two, and the share of numbers that are equal."""
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(y))
    grey, y = (x[order] / 16).float(), y[order]
    binary = (grey > 0.5).float()
    first = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    nets = nn.ModuleDict({"a": first, "b": copy.deepcopy(first)})
    ties = ls.Ties("a.*", "b.*")
    if hard:
        ls.share(nets, ties)
    found, lr = ties.find(nets), 0.003
    optimizer = torch.optim.Adam(nets.parameters(), lr=lr)

    def loss(net: nn.Module, images: Tensor, which: slice) -> Tensor:
        return nn.functional.cross_entropy(net(images[which]), y[which])

    for _ in range(300):
        optimizer.zero_grad()
        (
            loss(nets["a"], grey, slice(0, 500)) + loss(nets["b"], binary, slice(500, 550))
        ).backward()
        if penalty is not None and penalty.is_smooth:
            ls.add_penalty_gradient(nets, penalty, found, strength)
        optimizer.step()
        if penalty is not None and not penalty.is_smooth:
            ls.apply_prox(nets, penalty, found, lr * strength)
    with torch.no_grad():
        right = (nets["b"](binary[600:]).argmax(dim=1) == y[600:]).float().mean()
        tensors = [tie.tensors() for tie in found]
        equal = fmean(float((a == b).float().mean()) for a, b in tensors[:1])
    return float(right), overall_distance(tensors), equal


def strength_path(folder: Path = FOLDER) -> None:
    """Accuracy and distance over the strength."""
    alone = [train(None, 0.0, seed) for seed in SEEDS]
    one = [train(None, 0.0, seed, hard=True) for seed in SEEDS]
    drawn = {
        "soft_tie": (ls.RECIPES["soft_tie"].penalty, BLUE),
        "unit_tie": (ls.RECIPES["unit_tie"].penalty, RED),
    }
    runs = {
        name: [[train(penalty, strength, seed) for seed in SEEDS] for strength in STRENGTHS]
        for name, (penalty, _) in drawn.items()
    }
    low, high = math.log10(STRENGTHS[0]), math.log10(STRENGTHS[-1])

    def across(strength: float) -> float:
        return 150 + 420 * (math.log10(strength) - low) / (high - low)

    panels = {
        "accuracy of the scarce model": (
            0,
            40,
            0.65,
            0.95,
            [0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
        ),
        "distance": (1, 290, 0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
    }
    parts = []
    for name, (column, top, least, most, ticks) in panels.items():

        def up(
            value: float, top: int = top, least: float = least, most: float = most
        ) -> float:
            return top + 180 - 180 * (value - least) / (most - least)

        parts.append(text(60, top - 14, name, 14, "start"))
        for tick in ticks:
            parts.append(line([(60, up(tick)), (660, up(tick))], "#dddddd", 1))
            parts.append(text(52, up(tick) + 4, f"{tick:.2f}", 11, "end"))
        ends = {90: alone, 630: one}
        for x, of_seeds in ends.items():
            mean = estimate([run[column] for run in of_seeds])
            if column == 0:
                parts.append(line([(x, up(mean.low)), (x, up(mean.high))], BLACK, 1.5))
            parts.append(dot(x, up(mean.mean), BLACK))
        for shift, (strategy, (_, color)) in enumerate(drawn.items()):
            means = [
                estimate([run[column] for run in of_seeds]) for of_seeds in runs[strategy]
            ]
            points = [
                (across(s) + 4 * shift - 2, up(m.mean))
                for s, m in zip(STRENGTHS, means, strict=True)
            ]
            if column == 0:
                for (x, _), m in zip(points, means, strict=True):
                    parts.append(line([(x, up(m.low)), (x, up(m.high))], color, 1.2))
            parts += [line(points, color), *(dot(*point, color, 4) for point in points)]
        for strength in STRENGTHS:
            parts.append(text(across(strength), top + 198, f"{strength:g}", 11))
        parts += [text(90, top + 198, "separate", 11), text(630, top + 198, "one copy", 11)]
    parts += [
        text(360, 512, "strength"),
        *(dot(490 + 95 * i, 21, color, 4) for i, (_, color) in enumerate(drawn.values())),
        *(
            text(500 + 95 * i, 26, name, 13, "start", color)
            for i, (name, (_, color)) in enumerate(drawn.items())
        ),
    ]
    save(
        "strength_path",
        690,
        525,
        "Accuracy and distance over the strength of the tie",
        parts,
        folder,
    )
    for name, of_strengths in runs.items():
        for strength, of_seeds in zip(STRENGTHS, of_strengths, strict=True):
            accuracy, distance, equal = zip(*of_seeds, strict=True)
            print(
                f"{name} {strength:<5g} {estimate(accuracy)!s:16} {fmean(distance):.3f} {fmean(equal):.1%}"
            )
    for name, of_seeds in (("separate", alone), ("one copy", one)):
        accuracy, distance, equal = zip(*of_seeds, strict=True)
        print(f"{name} {estimate(accuracy)!s:16} {fmean(distance):.3f} {fmean(equal):.1%}")


ALGEBRA = (shrinkage, groups, centers)

if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for draw in (*ALGEBRA, strength_path):
        draw()
