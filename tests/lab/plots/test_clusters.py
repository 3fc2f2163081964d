import numpy as np
import pytest
import torch

from lit_share.codebooks import cluster_rows, densify, tie_rows
from lit_share.lab.plots import cluster_map
from lit_share.ties import Ties

RNG = np.random.default_rng(0)
EXEMPLARS = RNG.standard_normal((3, 8))
LABELS = [0, 1, -1, 1, 2, 1, 0]
ROWS = np.array(
    [np.zeros(8) if k < 0 else EXEMPLARS[k] + 0.01 * RNG.standard_normal(8) for k in LABELS]
)
TIED = np.array([np.zeros(8) if k < 0 else EXEMPLARS[k] for k in LABELS])
ORDER = [1, 3, 5, 0, 6, 4]  # of the clusters of three, two and one


def maps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_similarities_in_the_order_of_clusters():
    before, after = maps(cluster_map(ROWS, TIED, LABELS))
    for drawn, rows in ((before, ROWS), (after, TIED)):
        for i, a in enumerate(ORDER):
            for j, b in enumerate(ORDER):
                similarity = rows[a] @ rows[b] / max(rows[a] @ rows[a], rows[b] @ rows[b])
                assert drawn.z[i][j] == pytest.approx(similarity, abs=0.005)
    assert after.z[0][1] == 1.0 > before.z[0][3]


def test_a_line_is_around_clusters_of_several():
    figure = cluster_map(ROWS, TIED, LABELS)
    for outline in (trace for trace in figure.data if trace.type == "scatter"):
        assert list(outline.x) == [-0.5, 2.5, 2.5, -0.5, -0.5, None, 2.5, 4.5, 4.5, 2.5, 2.5, None]
        assert list(outline.y) == [-0.5, -0.5, 2.5, 2.5, -0.5, None, 2.5, 2.5, 4.5, 4.5, 2.5, None]


def test_titles_count():
    figure = cluster_map(ROWS, TIED, LABELS, title="<b>x</b>")
    assert [a.text for a in figure.layout.annotations] == ["before: 6 rows", "after: 3 clusters"]
    assert figure.layout.title.text == "&lt;b&gt;x&lt;/b&gt;"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1.0, 1.0)


def test_of_many_rows_some_of_all_clusters_are_drawn():
    labels = [k for k in range(10) for _ in range(100)]
    rows = RNG.standard_normal((1000, 4))
    figure = cluster_map(rows, rows, labels, most=50)
    assert all(len(drawn.z) == 50 for drawn in maps(figure))
    assert figure.layout.annotations[0].text == "before: 50 of 1,000 rows"
    (first, *_) = [trace for trace in figure.data if trace.type == "scatter"]
    assert list(first.x).count(None) == 10


def test_clusters_that_are_found_by_tie_rows():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 5))
    with torch.no_grad():
        net[0].weight[:, 4:] = net[0].weight[:, :4].repeat(1, 2)
    before = net[0].weight.detach().T.clone()
    labels = cluster_rows(before, 0.9).tolist()
    tie_rows(net, Ties("0.weight"), 0.9)
    densify(net)
    _, after = maps(cluster_map(before, net[0].weight.detach().T, labels))
    assert np.all(np.diag(np.asarray(after.z, dtype=float)) == 1.0)


@pytest.mark.parametrize("labels", [[], [-1, -1]])
def test_nothing_to_draw(labels):
    for drawn in maps(cluster_map(np.zeros((len(labels), 3)), np.zeros((len(labels), 3)), labels)):
        assert list(drawn.z) == []
