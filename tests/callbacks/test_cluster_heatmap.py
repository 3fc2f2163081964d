import json

import pytest

from lit_share.callbacks import cluster_heatmap


def labels(leaf, groups, models="abcde"):
    return {f"{m}.{leaf}": int(g) for m, g in zip(models, groups, strict=True)}


CLUSTERS = {
    "0.weight": labels("0.weight", "00112"),
    "0.bias": labels("0.bias", "01201"),
    "2.weight": labels("2.weight", "01223"),
    "2.bias": labels("2.bias", "01234"),
}


def test_a_cluster_has_one_number_in_all_ties():
    (drawn,) = cluster_heatmap(CLUSTERS).data
    assert list(drawn.y) == list(CLUSTERS)
    assert list(drawn.x) == ["a", "b", "c", "d", "e"]
    assert [list(row) for row in drawn.z] == [
        [1, 1, 2, 2, 0],
        [3, 4, 0, 3, 4],
        [0, 0, 2, 2, 0],
        [0, 0, 0, 0, 0],
    ]
    assert list(drawn.text[2]) == ["", "", "2", "2", ""]


def test_the_first_tie_is_on_top():
    assert cluster_heatmap(CLUSTERS).layout.yaxis.autorange == "reversed"


def test_a_cluster_has_one_colour_and_alone_is_grey():
    (drawn,) = cluster_heatmap(CLUSTERS).data
    scale = dict(drawn.colorscale)
    assert (drawn.zmin, drawn.zmax) == (0, 4)
    assert scale[0.0] == "#f0f0f0"
    assert len({scale[number / 4] for number in range(5)}) == 5


@pytest.mark.parametrize("count", [1, 2, 9])
def test_however_many_clusters(count):
    """Colours repeat; numbers do not."""
    groups = {f"{i}": i // 2 for i in range(2 * count)}
    (drawn,) = cluster_heatmap({"w": groups}).data
    assert sorted(set(drawn.z[0])) == [*range(1, count + 1)]
    assert [at for at, _ in drawn.colorscale] == pytest.approx(
        [i / count for i in range(count + 1)]
    )


def test_where_no_members_are_equal():
    (drawn,) = cluster_heatmap({"2.bias": CLUSTERS["2.bias"]}).data
    assert {color for _, color in drawn.colorscale} == {"#f0f0f0"}


@pytest.mark.parametrize(
    ("clusters", "columns"),
    [
        ({"w": {"layers.0.w": 0, "layers.1.w": 0, "layers.2.w": 1}}, ["0", "1", "2"]),
        ({"w": {"w[0]": 0, "w[1]": 0}}, ["w[0]", "w[1]"]),
        ({"w": {"enc": 0, "dec.T": 0}}, ["enc", "dec.T"]),
        ({"w": {"a.x.w": 0, "b.y.w": 1}}, ["a.x", "b.y"]),
        ({"w": {"a.w": 0, "b.w": 0}, "v": {"c.v": 0, "d.v": 0}}, ["1", "2"]),
        ({"w": {"a.w": 0, "b.w": 0}, "v": {"b.v": 0, "a.v": 0}}, ["1", "2"]),
        ({"w": {"a.w": 0, "b.w": 0}, "v": {"a.v": 0, "b.v": 0, "c.v": 0}}, ["a", "b", "c"]),
        ({"w": {"a": 0}}, ["a"]),
        ({}, []),
    ],
)
def test_columns_are_named_by_what_members_have_in_common(clusters, columns):
    assert list(cluster_heatmap(clusters).data[0].x) == columns


def test_names_are_no_markup():
    figure = cluster_heatmap({"<b>w</b>": {"<i>.w": 0, "j.w": 0}}, title="<b>")
    assert list(figure.data[0].y) == ["&lt;b&gt;w&lt;/b&gt;"]
    assert figure.data[0].x[0] == "&lt;i&gt;"
    assert figure.layout.title.text == "&lt;b&gt;"


def test_can_be_written():
    assert json.loads(cluster_heatmap(CLUSTERS).to_json())["data"][0]["type"] == "heatmap"
