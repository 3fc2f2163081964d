"""Clusters of inputs that vary together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering

from lit_share.codebooks import Covariance, cluster_inputs


def covariance(x):
    found = Covariance()
    found.add(torch.as_tensor(x), -1)
    return found


def data(inputs=12, factors=4, seed=0):
    """Inputs that are factors with noise, in groups of different size."""
    rng = torch.Generator().manual_seed(seed)
    owner = torch.randint(factors, (inputs,), generator=rng)
    z = torch.randn(200, factors, generator=rng, dtype=torch.float64)
    return z[:, owner] + 0.3 * torch.randn(200, inputs, generator=rng, dtype=torch.float64)


def explained(x, labels):
    """The share of variance within the formula of the docstring."""
    c = np.cov(x.numpy(), rowvar=False, bias=True)
    within = [c[np.ix_(own, own)] for own in (np.flatnonzero(labels == k) for k in set(labels))]
    return sum(block.sum() / len(block) for block in within) / np.trace(c)


@pytest.mark.parametrize("clusters", [1, 3, 7, 12])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_those_of_ward_of_scikit_learn(clusters, seed):
    x = data(seed=seed)
    labels = cluster_inputs(covariance(x), clusters=clusters).numpy()
    ward = AgglomerativeClustering(clusters, linkage="ward").fit((x - x.mean(0)).T.numpy())
    theirs = ward.labels_
    assert len(set(labels)) == clusters
    assert ((labels[:, None] == labels) == (theirs[:, None] == theirs)).all()


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95, 1.0])
def test_they_are_the_fewest_that_explain_enough(similarity):
    x = data()
    labels = cluster_inputs(covariance(x), similarity).numpy()
    number = len(set(labels))
    assert explained(x, labels) >= similarity - 1e-5
    if number > 1:
        fewer = cluster_inputs(covariance(x), clusters=number - 1).numpy()
        assert explained(x, fewer) < similarity


def test_outputs_lose_what_clusters_do_not_explain():
    """The formula: rows that are independent lose 1 − S of the variance of outputs."""
    x = data()
    labels = cluster_inputs(covariance(x), clusters=4)
    w = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means = torch.zeros(20_000, 4, dtype=w.dtype).index_add(1, labels, w) / torch.bincount(labels)
    centered = x - x.mean(0)
    lost = (centered @ (w - means[:, labels]).T).square().mean() / (centered @ w.T).square().mean()
    assert float(lost) == pytest.approx(1.0 - explained(x, labels.numpy()), rel=0.02)


def test_equal_inputs_are_one_at_similarity_1():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    assert cluster_inputs(covariance(x[:, [0, 1, 0, 2, 1]]), 1.0).tolist() == [0, 1, 0, 2, 1]


def test_zeros_are_dropped_and_constants_are_one_cluster():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x[:, 0], x[:, 1], x[:, 4] = 0.0, 3.0, -2.0
    assert cluster_inputs(covariance(x), 1.0).tolist() == [-1, 0, 1, 2, 0, 3]


@pytest.mark.parametrize("x", [torch.zeros(5, 3), torch.ones(5, 3)], ids=["zeros", "ones"])
def test_where_nothing_varies(x):
    assert cluster_inputs(covariance(x)).tolist() == [int(x[0, 0]) - 1] * 3


def test_the_order_of_inputs_does_not_matter():
    x, order = data(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    labels, permuted = (cluster_inputs(covariance(v), 0.6) for v in (x, x[:, order]))
    assert torch.equal(labels[order][:, None] == labels[order], permuted[:, None] == permuted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": 0.0}, "0 < similarity <= 1, got 0.0"),
        ({"similarity": 1.5}, "0 < similarity <= 1, got 1.5"),
        ({"similarity": float("nan")}, "0 < similarity <= 1, got nan"),
        ({"clusters": 0}, "clusters must be a whole number >= 1 or None, got 0"),
        ({"clusters": 2.0}, "clusters must be a whole number >= 1 or None, got 2.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cluster_inputs(covariance(data()), **options)


def test_a_layer_of_one_input():
    assert cluster_inputs(covariance(torch.randn(5, 1))).tolist() == [0]
