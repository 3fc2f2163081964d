"""Draw the figures of the algebra with `Penalty.prox`: `python docs/figures.py`.

They go to `docs/figures`. `python -m benchmarks.figures` draws those of trained models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import torch

import lit_share as ls
from lit_share.lab.plots import OKABE_ITO

FOLDER = Path(__file__).parent / "figures"
BLACK, BLUE, RED, GREEN, ORANGE, SKY, PINK, _ = OKABE_ITO
GREY = "#999999"

Point = tuple[float, float]


def text(
    x: float,
    y: float,
    words: str,
    size: int = 13,
    anchor: str = "middle",
    color: str = BLACK,
) -> str:
    """Return text at a point."""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{color}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{words}</text>'


def line(points: Iterable[Point], color: str, width: float = 2.5, dash: str = "") -> str:
    """Return a line through points."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    stroke = f'stroke="{color}" stroke-width="{width}"{dashed}'
    return f'<polyline points="{places}" fill="none" {stroke}/>'


def dot(
    x: float, y: float, color: str, radius: float = 5.0, fill: str | None = None
) -> str:
    """Return a dot at a point."""
    style = f'fill="{fill or color}" stroke="{color}" stroke-width="1.5"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}/>'


def arrow(begin: Point, end: Point, color: str) -> str:
    """Return an arrow that ends a little before its end point."""
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
    """Write a figure with a white background."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" role="img"><title>{title}</title>'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    content = "\n".join([head, background, *parts, "</svg>"]) + "\n"
    (folder / f"{name}.svg").write_text(content, encoding="utf-8")


def shrinkage(folder: Path = FOLDER) -> None:
    """Draw group norms after a proximal step over those before it, for each norm."""
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
    """Draw the groups of a weight matrix."""
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
            f'<rect x="{left + cell * column}" y="{top + cell * row}" width="{cell - 2}" '
            f'height="{cell - 2}" fill="{color(row, column)}" fill-opacity="0.8"/>'
            for row in range(outputs)
            for column in range(inputs)
        ]
        parts.append(text(left + cell * inputs / 2, 24, f'"{name}"', 15))
    parts += [
        text(106 + 172 * i, 182, words)
        for i, words in enumerate(("an element", "a unit", "a row", "the whole tensor"))
    ]
    left = 40 + 172 * 4
    for k, (color, length) in enumerate(zip(colors[:3], (1.0, 0.6, 0.35), strict=True)):
        x = left + 58 * k
        height, width = cell * outputs - 2, 36
        fill = f'fill="{color}" fill-opacity="{length}"'
        parts += [
            f'<rect x="{x}" y="52" width="6" height="{height}" {fill}/>',
            f'<rect x="{x + 9}" y="52" width="{width}" height="6" {fill}/>',
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
    """Draw the point that each center pulls members towards."""
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


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for draw in (shrinkage, groups, centers):
        draw()
