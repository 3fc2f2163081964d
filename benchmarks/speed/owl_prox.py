"""Compare the OWL prox with sorting and other packages: `python -m benchmarks.speed owl_prox`.

Peers are measured where they are installed: skglm's SLOPE, and the isotonic regressions of
torchsort and scikit-learn, with a sort around them. Their numbers are in float64, as that is what
they take, ours in float32, as in training; all have to agree. (sortedl1 hands out solvers only, and
not the operator in them.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from torch import Tensor

import lit_share as ls
from benchmarks.speed._clock import DEVICE, Call, Row, alternate, ratio, spread, timed
from benchmarks.speed._models import vgg16
from lit_share.functional import TieBatch, TieTensors

REPEATS = 7
Vector: TypeAlias = NDArray[np.float64]


def cases(n: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and weights."""
    v = torch.randn(n, device=DEVICE).abs()
    few, many = ls.owl_weights(n, 0.01, 0.5 / n), ls.owl_weights(n, 0.1, 3.0 / n)
    spiky = torch.where(torch.rand(n, device=DEVICE) < 0.01, 10.0 * v, v)
    return {
        "few pools": (v, few),
        "many pools": (v, many),
        "sorted": (v.sort(descending=True).values, few),
        "spiky": (spiky, ls.owl_weights(n, 0.01, 2.0 / n)),
        "93 % zeros": (v, ls.owl_weights(n, 1.8, 0.01 / n)),
    }


def peers(values: Tensor, weights: Tensor) -> dict[str, Callable[[], object]]:
    """The packages that are here, each with what it needs around it to compute the same."""
    v, w = values.double().cpu().numpy(), weights.cpu().numpy()

    def with_sorting(
        descending: Callable[[Vector], Vector], pool: Callable[[Vector], Vector]
    ) -> Vector:
        order = descending(v)
        result = np.empty_like(v)
        result[order] = np.maximum(pool(v[order] - w), 0.0)
        return result

    numpy_sort, torch_sort = (
        (lambda x: np.argsort(x)[::-1]),
        (lambda x: torch.argsort(torch.from_numpy(x)).numpy()[::-1]),
    )
    found: dict[str, Callable[[], object]] = {
        "scikit-learn": partial(
            with_sorting, numpy_sort, partial(isotonic_regression, increasing=False)
        )
    }
    if find_spec("skglm"):
        from skglm.penalties import SLOPE
        from skglm.utils.jit_compilation import compiled_clone

        found["skglm"] = partial(compiled_clone(SLOPE(w)).prox_vec, v, 1.0)
    if find_spec("torchsort"):
        from torchsort.isotonic_cpu import isotonic_l2

        found["torchsort"] = partial(
            with_sorting, torch_sort, lambda x: isotonic_l2(torch.from_numpy(x)[None])[0].numpy()
        )
    expected = ls.prox_owl(values, weights).cpu().numpy()
    for name, call in found.items():
        np.testing.assert_allclose(call(), expected, atol=1e-5, err_msg=name)
    return found


def prox(penalty: ls.Penalty, tensors: Sequence[Tensor]) -> Call:
    """Open ties of one member, and return a call that takes their proximal step."""
    return TieBatch(penalty, [TieTensors([w], steps=[1e-9]) for w in tensors]).prox_


def measure() -> Iterator[Row]:
    """Yield the rows."""
    seconds: dict[int, float] = {}
    for n in (10**3, 10**4, 10**5, 10**6):
        for kind, (values, weights) in cases(n).items():
            contestants = {
                "torch.sort": partial(torch.sort, values, descending=True),
                "ours": partial(ls.prox_owl, values, weights),
            } | peers(values, weights)
            times = alternate(contestants, REPEATS)
            if kind == "spiky":
                seconds[n] = sorted(times["ours"])[REPEATS // 2]
            most = 0.25 if kind == "93 % zeros" and n >= 10**4 else None
            yield ratio(times, "ours", "torch.sort", f"prox_owl, {n:,}, {kind}", target=most)
            for peer in list(contestants)[2:]:
                yield ratio(times, "ours", peer, f"prox_owl, {n:,}, {kind}", target=1.0)
    growth = seconds[10**6] / seconds[10**5]
    yield Row("prox_owl, spiky, 1,000,000", growth, growth, growth, against="100,000", target=16.0)
    group_lasso = ls.Penalty("l1", "input", "zero")
    growl = ls.Penalty("owl", "input", "zero", lambda n: ls.owl_weights(n, 1.0, 1.0 / n))
    matrix = [torch.randn(4096, 1024, device=DEVICE)]
    calls = {"GrOWL": prox(growl, matrix), "group lasso": prox(group_lasso, matrix)}
    times = alternate(calls, REPEATS)
    yield ratio(times, "GrOWL", "group lasso", "GrOWL prox, 4096 × 1024", target=1.4)
    net = vgg16().to(DEVICE)
    layers = prox(growl, [p.detach() for p in net.parameters() if p.ndim > 1])
    images = torch.randn(8, 3, 224, 224, device=DEVICE)
    layers()  # makes the weights
    percent = []
    for _ in range(2):
        times = {
            "step": [timed(lambda: net(images).square().mean().backward())],
            "GrOWL": [timed(layers)],
        }
        percent.append(100.0 * times["GrOWL"][0] / times["step"][0])
    yield spread(
        "GrOWL prox, all layers of VGG-16",
        percent,
        unit="%",
        against="forward and backward of 8 images",
        target=5.0,
    )
