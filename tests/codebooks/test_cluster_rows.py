from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from lit_share.codebooks import _cluster_rows
from lit_share.codebooks._cluster_rows import cluster_rows

METHODS = ("affinity_propagation", "linkage")
each_method = pytest.mark.parametrize("method", METHODS)


def planted(
    n: int, d: int = 64, size: int = 20, noise: float = 0.1, bridged: float = 0.0, seed: int = 0
):
    """Return rows around random centers of length 1, a fraction of them between, and the groups."""
    rng = np.random.default_rng(seed)

    def directions(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, d))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    k = max(n // size, 2)
    centers, groups = directions(k), np.arange(n) % k
    rows = centers[groups] + noise * directions(n)
    between = rng.choice(n, int(bridged * n), replace=False)
    angle = rng.uniform(0.1, math.pi / 2 - 0.1, len(between))
    here, there = groups[between], (groups[between] + 1) % k
    arc = np.cos(angle)[:, None] * centers[here] + np.sin(angle)[:, None] * centers[there]
    rows[between] = arc + noise / 2 * directions(len(between))
    groups[between] = np.where(angle < math.pi / 4, here, there)
    return torch.from_numpy(rows), groups


def partition(labels) -> set[frozenset[int]]:
    """The clusters, whatever their numbers."""
    labels = np.asarray(labels)
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def similarities(rows: Tensor) -> np.ndarray:
    """The formula, pair by pair."""
    w = rows.double().numpy()
    result = np.empty((len(w), len(w)))
    for i, j in itertools.product(range(len(w)), repeat=2):
        result[i, j] = np.dot(w[i], w[j]) / max(np.dot(w[i], w[i]), np.dot(w[j], w[j]))
    return result


def average_linkage(rows: Tensor, similarity: float) -> list[list[int]]:
    """Join the two clusters that are most similar on average, as long as that is enough."""
    s = similarities(rows)
    clusters = [[i] for i in range(len(rows))]
    while len(clusters) > 1:
        pairs = itertools.combinations(range(len(clusters)), 2)
        mean, i, j = max((s[np.ix_(clusters[i], clusters[j])].mean(), i, j) for i, j in pairs)
        if mean < similarity:
            break
        clusters[i] += clusters.pop(j)
    return clusters


def best_exemplars(rows: Tensor, preference: float) -> np.ndarray:
    """What affinity propagation looks for, by trying all sets of exemplars."""
    s = similarities(rows)
    np.fill_diagonal(s, preference)
    best, labels = -math.inf, np.zeros(0)
    for size in range(1, len(s) + 1):
        for chosen in itertools.combinations(range(len(s)), size):
            follows = np.array(chosen)[s[:, chosen].argmax(axis=1)]
            follows[list(chosen)] = chosen
            score = s[np.arange(len(s)), follows].sum()
            if score > best:
                best, labels = score, follows
    return labels


def random_rows(seed: int, n: int, d: int) -> Tensor:
    """Rows of a few rough groups: no two pairs are equally similar."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(n // 3, 1), d))
    return torch.from_numpy(
        centers[rng.integers(len(centers), size=n)] + 0.3 * rng.standard_normal((n, d))
    )


some_rows = st.builds(random_rows, st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6))


class TestBothMethods:
    @each_method
    @pytest.mark.parametrize("n", [40, 300])
    def test_planted(self, method, n):
        rows, groups = planted(n)
        assert partition(cluster_rows(rows, method=method)) == partition(groups)

    @each_method
    def test_alone(self, method):
        """Rows that are like nothing else."""
        assert cluster_rows(torch.eye(5), method=method).tolist() == [0, 1, 2, 3, 4]

    @each_method
    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            ([[1.0, 0.0]], [0]),
            ([[1.0, 0.0], [1.0, 0.1]], [0, 0]),
            ([[1.0, 0.0], [0.0, 1.0]], [0, 1]),
            ([[1.0, 0.0], [1.0, 0.0]], [0, 0]),
            ([[1.0, 0.0]] * 3 + [[0.0, 1.0]], [0, 0, 0, 1]),
            ([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], [0, -1, 1]),
        ],
        ids=str,
    )
    def test_few_rows(self, method, rows, expected):
        assert cluster_rows(torch.tensor(rows), method=method).tolist() == expected

    @each_method
    def test_opposite_signs(self, method):
        rows, groups = planted(60)
        labels = cluster_rows(torch.cat([rows, -rows]), method=method)
        assert partition(labels) == partition(np.concatenate([groups, groups + len(groups)]))

    @each_method
    @pytest.mark.parametrize(
        ("factor", "together"), [(0.5, False), (0.69, False), (0.71, True), (1 / 0.71, True)]
    )
    def test_length(self, method, factor, together):
        """The similarity of a row and c ≤ 1 times that row is c."""
        row = torch.tensor([[1.0, -2.0, 0.5]])
        labels = cluster_rows(torch.cat([row, factor * row]), similarity=0.7, method=method)
        assert labels.tolist() == ([0, 0] if together else [0, 1])

    @each_method
    @pytest.mark.parametrize("similarity", [0.3, 0.7, 1.0])
    def test_equal_rows(self, method, similarity):
        """Whatever else is clustered, and however rounded."""
        rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
        labels = cluster_rows(rows.repeat(4, 1), similarity, method)
        assert torch.equal(labels, labels[:50].repeat(4))

    @each_method
    def test_only_equal_rows(self, method):
        rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
        nearly = rows * (1.0 + 1e-6)
        labels = cluster_rows(torch.cat([rows, nearly, rows]), similarity=1.0, method=method)
        assert torch.equal(labels, torch.cat([torch.arange(100), torch.arange(50)]))

    @each_method
    def test_nearly_equal_rows(self, method):
        rows, groups = planted(60, noise=1e-9)
        assert partition(cluster_rows(rows, method=method)) == partition(groups)

    @each_method
    def test_zeros(self, method):
        rows, _ = planted(60)
        labels = cluster_rows(rows, method=method)
        rows = torch.cat([torch.zeros(1, 64), rows[:30], -torch.zeros(2, 64), rows[30:]])
        none = torch.tensor([-1])
        assert torch.equal(
            cluster_rows(rows, method=method),
            torch.cat([none, labels[:30], none, none, labels[30:]]),
        )

    @each_method
    def test_negative_zero_is_zero(self, method):
        rows = torch.tensor([[1.0, 0.0], [1.0, -0.0], [-0.0, 0.0]])
        assert cluster_rows(rows, similarity=1.0, method=method).tolist() == [0, 0, -1]

    @pytest.mark.parametrize("method", ["auto", *METHODS])
    @pytest.mark.parametrize("shape", [(0, 3), (0, 0), (4, 0), (4, 3)])
    def test_nothing_to_cluster(self, method, shape):
        labels = cluster_rows(torch.zeros(shape), method=method)
        assert torch.equal(labels, torch.full((shape[0],), -1))

    @each_method
    @given(some_rows, st.randoms(use_true_random=False))
    def test_permutation(self, method, rows, random):
        order = random.sample(range(len(rows)), len(rows))
        labels = cluster_rows(rows, method=method)
        assert partition(cluster_rows(rows[order], method=method)) == partition(labels[order])

    @each_method
    @given(some_rows)
    def test_numbers(self, method, rows):
        """0, 1, 2, … as they come up."""
        seen = list(dict.fromkeys(cluster_rows(rows, method=method).tolist()))
        assert seen == list(range(len(seen)))

    @each_method
    @pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
    def test_scale(self, method, scale):
        rows, groups = planted(60)
        assert partition(cluster_rows(scale * rows, method=method)) == partition(groups)

    @each_method
    @pytest.mark.parametrize(
        "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
    )
    def test_dtype(self, method, dtype):
        rows, groups = planted(60)
        labels = cluster_rows(rows.to(dtype), method=method)
        assert labels.dtype == torch.int64
        assert partition(labels) == partition(groups)

    @each_method
    def test_same_every_time(self, method):
        rows, _ = planted(200, noise=0.6, bridged=0.2)
        labels = cluster_rows(rows, method=method)
        torch.manual_seed(1)
        np.random.seed(1)
        assert torch.equal(cluster_rows(rows, method=method), labels)

    @each_method
    def test_pure(self, method):
        rows = planted(60)[0].requires_grad_()
        before = rows.detach().clone()
        assert not cluster_rows(rows, method=method).requires_grad
        assert torch.equal(rows.detach(), before)
        assert rows._version == 0

    @each_method
    def test_noncontiguous(self, method):
        rows, groups = planted(60)
        assert partition(cluster_rows(rows.T.contiguous().T, method=method)) == partition(groups)


class TestAffinityPropagation:
    @staticmethod
    def score(rows: Tensor, labels) -> float:
        """What affinity propagation maximizes, with the best exemplar of each cluster."""
        s = similarities(rows)
        np.fill_diagonal(s, 0.7)
        return sum(s[np.ix_(list(c), list(c))].sum(axis=0).max() for c in partition(labels))

    @given(st.builds(random_rows, st.integers(0, 10**6), st.integers(1, 7), st.integers(2, 6)))
    def test_reference(self, rows):
        """Message passing need not find the best exemplars, but it loses little."""
        labels = cluster_rows(rows, method="affinity_propagation")
        best = self.score(rows, best_exemplars(rows, 0.7))
        assert 0.97 * best <= self.score(rows, labels) <= best + 1e-9

    @pytest.mark.parametrize(
        ("size", "noise"), [(20, 0.1), (20, 0.3), (20, 0.5), (3, 0.3), (2, 0.3)]
    )
    def test_scikit_learn(self, size, noise):
        """Clustering only different rows, with ties decided, is no worse than with all rows."""
        rows, _ = planted(100, size=size, noise=noise)
        rows = torch.cat([rows, rows[:30], rows[:10]])
        model = sklearn.cluster.AffinityPropagation(
            affinity="precomputed",
            preference=0.7,
            damping=0.9,
            convergence_iter=50,
            max_iter=1000,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            expected = model.fit(similarities(rows)).labels_
        labels = cluster_rows(rows, method="affinity_propagation")
        assert self.score(rows, labels) >= 0.999 * self.score(rows, expected)

    def test_pairs(self):
        """Two rows, either of which could represent the other, are clustered."""
        rows, groups = planted(100, size=2)
        assert partition(cluster_rows(rows, method="affinity_propagation")) == partition(groups)

    @pytest.mark.parametrize(("iterations", "alone"), [(3, 60), (30, 0)])
    def test_not_settled(self, monkeypatch, iterations, alone):
        original = sklearn.cluster.AffinityPropagation
        monkeypatch.setattr(
            sklearn.cluster,
            "AffinityPropagation",
            lambda **options: original(**options | {"max_iter": iterations}),
        )
        rows, _ = planted(60)
        message = (
            rf"60 rows did not settle in {iterations} iterations.* "
            rf"the {alone} rows .* clusters of one"
        )
        with pytest.warns(UserWarning, match=message) as caught:
            labels = cluster_rows(rows, method="affinity_propagation")
        assert caught[0].filename == __file__
        assert (len(labels.unique()) == 60) == (alone == 60)
        assert labels.min() == 0


class TestLinkage:
    @given(some_rows, st.sampled_from([0.3, 0.6, 0.8, 0.95]))
    def test_reference(self, rows, similarity):
        expected = {frozenset(cluster) for cluster in average_linkage(rows, similarity)}
        assert partition(cluster_rows(rows, similarity, "linkage")) == expected

    @pytest.mark.parametrize("block", [1, 1000, 2**20])
    @pytest.mark.parametrize("similarity", [0.2, 0.6, 0.8])
    @pytest.mark.parametrize(
        "options", [{"noise": 0.3, "bridged": 0.2}, {"d": 4, "noise": 0.5}, {"d": 1}], ids=str
    )
    def test_full_average_linkage(self, monkeypatch, options, similarity, block):
        """By components, in blocks, without duplicates, the result is that of the whole matrix."""
        monkeypatch.setattr(_cluster_rows, "BLOCK", block)
        rows, _ = planted(200, **options)
        rows = torch.cat([rows, rows[:50]])
        w = rows.numpy()
        squares = (w * w).sum(axis=1)
        distances = 1.0 - w @ w.T / np.maximum.outer(squares, squares)
        tree = linkage(squareform(distances.clip(0.0), checks=False), "average")
        expected = fcluster(tree, 1.0 - similarity, "distance")
        assert partition(cluster_rows(rows, similarity, "linkage")) == partition(expected)

    @pytest.mark.parametrize("size", [20, 200])
    def test_bridged(self, size):
        """Chains of rows between groups do not join them, even where they are too many to link."""
        rows, groups = planted(3000, size=size, noise=0.3, bridged=0.1)
        assert adjusted_rand_score(cluster_rows(rows, method="linkage"), groups) > 0.9

    def test_bridged_groups_are_one_component(self):
        """So that the test above meets what it is for."""
        rows, _ = planted(3000, size=200, noise=0.3, bridged=0.1)
        components = _cluster_rows._components(_cluster_rows._Rows.of(rows)[0].single(), 0.7)
        assert np.bincount(components).max() > _cluster_rows.LINKAGE_ROWS

    @pytest.mark.parametrize("block", [1, 1000, 2**20])
    def test_exemplars(self, monkeypatch, block):
        """Each row is as similar as asked to a row of its cluster; separate groups are found."""
        monkeypatch.setattr(_cluster_rows, "BLOCK", block)
        monkeypatch.setattr(_cluster_rows, "LINKAGE_ROWS", 10)
        rows, groups = planted(200)
        assert partition(cluster_rows(rows, method="linkage")) == partition(groups)
        rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
        s = similarities(rows)
        for cluster in map(list, partition(cluster_rows(rows, method="linkage"))):
            assert s[np.ix_(cluster, cluster)].min(axis=0).max() > 0.7 - 1e-3

    def test_rows_of_one_line(self):
        """With thousands of numbers, each similar to the next, clusters remain narrow."""
        rows = torch.linspace(0.01, 1.0, 4000)[:, None]
        labels = cluster_rows(rows, method="linkage")
        for cluster in range(int(labels.max()) + 1):
            members = rows[labels == cluster]
            assert members.min() / members.max() > 0.7**2 - 1e-3

    def test_many_equal_rows(self):
        rows, groups = planted(40)
        assert partition(cluster_rows(rows.repeat(100, 1), method="linkage")) == partition(
            np.tile(groups, 100)
        )

    @pytest.mark.parametrize(
        "options", [{}, {"bridged": 0.1, "size": 200}, {"size": 2000}], ids=str
    )
    def test_memory(self, options):
        """Less than half of what the matrix of similarities takes."""
        n = 4000
        rows, groups = planted(n, noise=0.3, **options)
        cluster_rows(rows[:100], method="linkage")
        tracemalloc.start()
        labels = cluster_rows(rows, method="linkage")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert adjusted_rand_score(labels, groups) > 0.9
        assert peak < 8 * n * n / 2


class TestChoice:
    @pytest.mark.parametrize(("limit", "method"), [(60, "affinity_propagation"), (59, "linkage")])
    def test_auto(self, monkeypatch, limit, method):
        """By the number of different rows."""
        monkeypatch.setattr(_cluster_rows, "AFFINITY_PROPAGATION_ROWS", limit)
        called = []
        monkeypatch.setitem(
            _cluster_rows._METHODS,
            method,
            lambda rows, _: called.append(len(rows)) or np.arange(60),
        )
        cluster_rows(torch.cat([torch.eye(60), torch.eye(60), torch.zeros(5, 60)]))
        assert called == [60]

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
    def test_diverged(self, wrong):
        rows = torch.eye(3)
        rows[1, 2] = wrong
        with pytest.raises(
            ValueError, match="finite rows, but some are NaN or infinite: training has diverged"
        ):
            cluster_rows(rows)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"rows": torch.ones(3)},
                r"a matrix of floating-point numbers, got shape \(3,\) of torch.float32",
            ),
            ({"rows": torch.ones(3, 3, 1)}, r"got shape \(3, 3, 1\) of .* flatten a kernel first"),
            ({"rows": torch.ones(3, 3, dtype=torch.int64)}, r"got shape \(3, 3\) of torch.int64"),
            ({"similarity": 0.0}, "0 < similarity <= 1, got similarity=0.0"),
            ({"similarity": 1.1}, "0 < similarity <= 1, got similarity=1.1"),
            ({"similarity": math.nan}, "0 < similarity <= 1, got similarity=nan"),
            (
                {"method": "kmeans"},
                "unknown method 'kmeans': choose from 'auto', 'affinity_propagation', 'linkage'",
            ),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            cluster_rows(**({"rows": torch.ones(3, 3)} | arguments))

    def test_slow_imports_wait(self):
        code = "import sys, lit_share.codebooks._cluster_rows; print(*sys.modules, sep='\\n')"
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert not {"sklearn", "scipy.cluster", "scipy.sparse"} & set(output.split())
