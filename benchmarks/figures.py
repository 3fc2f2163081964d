"""Draw trained models to ``docs/figures``: `python -m benchmarks.figures`.

The models are small, and trained on scikit-learn's digits. Chromium draws the figures, with the
plotly.js that comes with Plotly. `report` is the head of the page that a sweep of `train.py` ends
with. `python -m benchmarks.figures positions` draws only what is named; all of them take two to
three minutes of one core. The numbers of `strength` and `pareto_front` are printed.
"""

from __future__ import annotations

import argparse
import base64
import copy
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from html import unescape
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from plotly.offline import get_plotlyjs
from torch import Tensor, nn

import lit_share as ls
from lit_share.callbacks import distance_heatmap
from lit_share.lab.data import PairedDomains, digits
from lit_share.lab.models import MLP
from lit_share.lab.plots import (
    Curve,
    Interval,
    Point,
    StrengthPath,
    cluster_map,
    position_filters,
    score_against_size,
    strength_path,
    styles,
)
from lit_share.lab.report import estimate
from lit_share.metrics import overall_distance, relative_distance

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "figures"
SEEDS = range(10)
STRENGTHS = dict.fromkeys(
    ("soft_tie", "unit_tie"), (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
)
WITHOUT = ("none", "hard_tie")
SCORE = "test accuracy of B"
SWEEP = (
    "regularizer=none,soft_tie,unit_tie,hard_tie strength=0.001,0.01,0.1,1,10 seed=0,1,2 "
    "data.domain=binarised data.n_a=500 data.n_b=50 model.classifier.lr=0.004 "
    "trainer.max_epochs=15 callbacks=quiet logger=csv hydra/launcher=joblib"
)


def train(
    module: nn.Module,
    loss: Callable[[], Tensor],
    recipe: str,
    ties: ls.Ties,
    strength: float,
    steps: int = 200,
    after: Callable[[int], None] | None = None,
) -> None:
    """SGD with momentum on full batches, and a penalty as `lit_share.Regularize` applies it."""
    penalty, found = ls.RECIPES[recipe].penalty, ties.find(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss().backward()
        if penalty is not None and penalty.is_smooth:
            ls.add_penalty_gradient(module, penalty, found, strength)
        optimizer.step()
        if penalty is not None and not penalty.is_smooth:
            ls.apply_prox(module, penalty, found, 0.1 * strength)
        if after is not None:
            after(step)


class Pair:
    """Two models with the same initial weights: A has 500 digits, B has 50 in another domain."""

    ties = ls.Ties("a.*", "b.*")

    def __init__(self, seed: int, hidden: Sequence[int], domain: str) -> None:
        torch.manual_seed(seed)
        net = MLP((1, 8, 8), 10, hidden)
        self.module = nn.ModuleDict({"a": net, "b": copy.deepcopy(net)})
        data = PairedDomains("digits", domain, n_a=500, n_b=50, batch_size=600, seed=seed)
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        self.examples, self.validation, self.test = (
            {k: next(iter(v)) for k, v in part.items()} for part in loaders
        )

    def loss(self) -> Tensor:
        """The sum of both losses."""
        losses = [
            F.cross_entropy(self.module[name](x), y) for name, (x, y) in self.examples.items()
        ]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def accuracy(self, data: dict[str, tuple[Tensor, Tensor]]) -> float:
        """The accuracy of B."""
        x, y = data["b"]
        return float((self.module["b"](x).argmax(1) == y).double().mean())


class Run:
    """What one strength came to with one seed."""

    def __init__(self, recipe: str, strength: float, seed: int) -> None:
        pair = Pair(seed, (32,), "binarised")
        if recipe == "hard_tie":
            ls.share(pair.module, pair.ties)
        train(pair.module, pair.loss, recipe, pair.ties, strength)
        self.strength, self.validation = strength, pair.accuracy(pair.validation)
        self.score = pair.accuracy(pair.test)
        self.distance = overall_distance([tie.tensors() for tie in pair.ties.find(pair.module)])
        self.unique = ls.sharing_stats(pair.module, pair.ties).unique


@cache
def runs() -> dict[str, list[list[Run]]]:
    """By strategy, strength and seed; their means are printed."""
    found: dict[str, list[list[Run]]] = {}
    for recipe in (*WITHOUT, *STRENGTHS):
        found[recipe] = []
        for strength in STRENGTHS.get(recipe, (0.0,)):
            found[recipe].append([Run(recipe, strength, seed) for seed in SEEDS])
            report(f"{recipe} {strength:g}" if recipe in STRENGTHS else recipe, found[recipe][-1])
        best = chosen(found[recipe])
        if recipe in STRENGTHS:
            tried = [run.strength for run in best]
            report(f"{recipe} chosen", best)
            print(f"{recipe} chosen: {min(tried):g} to {max(tried):g}")
        gain = estimate(
            [run.score - alone.score for run, alone in zip(best, found["none"][0], strict=True)]
        )
        print(f"{recipe} - none: {gain}")
    return found


def report(name: str, seeds: list[Run]) -> None:
    """Print the means over seeds."""
    distance, unique = fmean(run.distance for run in seeds), fmean(run.unique for run in seeds)
    print(
        f"{name:18} {SCORE} {estimate([run.score for run in seeds])}, distance {distance:.3f}, "
        f"unique {unique:,.0f}"
    )


def chosen(of: list[list[Run]]) -> list[Run]:
    """Return each seed's best run on validation data; of equals, that of the smallest strength."""
    return [
        max(seeds, key=lambda run: (run.validation, -run.strength))
        for seeds in zip(*of, strict=True)
    ]


def interval(values: list[float]) -> Interval:
    """The mean over seeds."""
    found = estimate(values)
    assert found is not None
    return Interval(found.mean, found.low, found.high)


def curve(strengths: Sequence[float], values: list[list[float]]) -> Curve:
    """The means over seeds."""
    found = [interval(seeds) for seeds in values]
    return Curve(
        strengths, [i.mean for i in found], [i.low for i in found], [i.high for i in found]
    )


def draw_strength() -> go.Figure:
    """Score and distance over the strength."""
    found = runs()
    paths = {
        recipe: StrengthPath(
            curve(strengths, [[run.score for run in seeds] for seeds in found[recipe]]),
            curve(strengths, [[run.distance for run in seeds] for seeds in found[recipe]]),
            [run.strength for run in chosen(found[recipe])],
        )
        for recipe, strengths in STRENGTHS.items()
    }
    others = {
        recipe: (
            fmean(run.score for run in found[recipe][0]),
            fmean(run.distance for run in found[recipe][0]),
        )
        for recipe in WITHOUT
    }
    return strength_path(paths, styles(found), SCORE, others)


def draw_pareto_front() -> go.Figure:
    """Score over unique parameters, of the same runs."""
    found = runs()

    def point(recipe: str, seeds: list[Run]) -> Point:
        return Point(
            recipe, fmean(run.unique for run in seeds), interval([run.score for run in seeds])
        )

    points = [point(recipe, chosen(of)) for recipe, of in found.items()]
    others = [point(recipe, seeds) for recipe in STRENGTHS for seeds in found[recipe]]
    return score_against_size(points, styles(found), SCORE, "max", others)


def draw_distances() -> go.Figure:
    """Distances of layers under `layer_tie`, where B sees the same pixels in another order."""
    pair = Pair(0, (32, 32, 32), "permuted")
    ties = [tie for tie in pair.ties.find(pair.module) if tie.name.endswith("weight")]
    history = {tie.name: [relative_distance(tie.tensors())] for tie in ties}

    def remember(step: int) -> None:
        if step % 10 == 0:
            for tie in ties:
                history[tie.name].append(relative_distance(tie.tensors()))

    train(pair.module, pair.loss, "layer_tie", pair.ties, 0.01, steps=400, after=remember)
    return distance_heatmap(history).update_xaxes(title_text="epoch of 10 steps")


def draw_cluster_map() -> go.Figure:
    """The rows of a layer before and after `tie_rows`, for images of twice the size."""
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, digits())
    images = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    inputs = images + 0.1 * torch.randn_like(images)
    net = MLP((1, 16, 16), 10, hidden=(32,))
    ties = ls.Ties("trunk.*.weight")
    train(net, lambda: F.cross_entropy(net(inputs), labels), "growl", ties, 0.005, steps=400)
    before = net.get_parameter("trunk.linear0.weight").detach().T.clone()
    ls.tie_rows(net, ties)
    assignment = net.get_buffer("trunk.linear0.assignment")
    ls.densify(net)
    return cluster_map(
        before, net.get_parameter("trunk.linear0.weight").detach().T, assignment.tolist()
    )


def draw_positions() -> go.Figure:
    """The filters at the positions of a locally connected layer, at several strengths."""
    images, labels = map(torch.from_numpy, digits())
    panels = {}
    for strength in (0.0, 0.0001, 0.001, 0.01):
        torch.manual_seed(0)
        local = ls.LocallyConnected2d.from_conv(nn.Conv2d(1, 8, kernel_size=3), input_size=8)
        net = nn.Sequential(local, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        ties = ls.Ties("0.weight[:]")
        train(
            net,
            lambda net=net: F.cross_entropy(net(images), labels),
            "soft_tie",
            ties,
            strength,
            400,
        )  # type: ignore[misc]
        weight = local.weight.detach()
        distance = relative_distance(list(weight))
        panels[f"strength {strength:g}, distance {distance:.2f}"] = weight[:, 0, 0].reshape(
            6, 6, 3, 3
        )
    return position_filters(panels)


FIGURES: dict[str, tuple[Callable[[], go.Figure], str, int]] = {
    "distances": (draw_distances, "png", 780),
    "strength": (draw_strength, "svg", 780),
    "pareto_front": (draw_pareto_front, "svg", 780),
    "cluster_map": (draw_cluster_map, "png", 780),
    "positions": (draw_positions, "png", 960),
}


def chromium(page: Path, *options: str) -> str:
    """Have Chromium open a page, and return what it prints."""
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    command = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *options,
    ]
    command += [
        f"--user-data-dir={page.parent}/profile",
        "--virtual-time-budget=20000",
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write(figure: go.Figure, path: Path, width: int) -> None:
    """Have Chromium draw a figure; as PNG with two pixels for each."""
    figure.update_layout(width=width, margin_l=16)
    kind = path.suffix[1:]
    options = {
        "format": kind,
        "width": width,
        "height": figure.layout.height,
        "scale": 2 if kind == "png" else 1,
    }
    image = f"Plotly.toImage(it, {json.dumps(options)})"
    draw = f"Plotly.newPlot('it', {figure.to_json()}).then(it => {image})"
    page = (
        "<!doctype html><meta charset=utf-8><div id=it></div><pre id=url></pre>"
        f"<script>{get_plotlyjs()}</script>"
        f"<script>{draw}.then(url => document.getElementById('url').textContent = url)</script>"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "page.html")
        file.write_text(page, encoding="utf-8")
        dom = chromium(file, "--dump-dom")
    found = re.search(r'<pre id="url">data:image/[^,]*,(.*?)</pre>', dom, flags=re.DOTALL)
    assert found, dom[-500:]
    path.parent.mkdir(exist_ok=True)
    if kind == "png":
        path.write_bytes(base64.b64decode(found[1]))
        return
    svg = unquote(unescape(found[1]))
    # Plotly names elements by chance.
    for i, name in enumerate(
        dict.fromkeys(re.findall(r'(?:id="[a-z]+-?|scatter trace)([0-9a-f]{6})', svg))
    ):
        svg = svg.replace(name, f"{i:06x}")
    path.write_text(svg + "\n", encoding="utf-8")


def write_report(path: Path, width: int = 800) -> None:
    """The head of a sweep's page, down to the strength: as wide as its table."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "digits")
        command = [sys.executable, "train.py", "-m", *SWEEP.split(), f"hydra.sweep.dir={sweep}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        html = (sweep / "report.html").read_text(encoding="utf-8")
        html = re.sub(
            r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html
        )  # which allows no script but its own
        page = sweep / "head.html"
        page.write_text(
            f"{html}<style>#strengths ~ section, footer, .modebar {{ display: none }}</style>"
            "<script>onload = () => {"
            "const { bottom } = document.querySelector('#strengths').getBoundingClientRect();"
            "document.body.dataset.height = Math.ceil(bottom) + 16 }</script>",
            encoding="utf-8",
        )
        found = re.search(
            r'data-height="(\d+)"', chromium(page, "--dump-dom", f"--window-size={width},900")
        )
        assert found, "the page has no section of the strength"
        chromium(page, f"--screenshot={path}", f"--window-size={width},{found[1]}")


def main() -> None:
    """Draw the named figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join((*FIGURES, "report")))
    names = parser.parse_args().names
    torch.set_num_threads(1)
    for name in names or (*FIGURES, "report"):
        if name == "report":
            path = ROOT / "docs" / "report.png"
            write_report(path)
        else:
            make, kind, width = FIGURES[name]
            path = FOLDER / f"{name}.{kind}"
            write(make(), path, width)
        print(path)


if __name__ == "__main__":
    main()
