import json

import pytest

from lit_share.callbacks import distance_heatmap

HISTORY = {"trunk.0.weight": [1.0, 0.5, 0.25], "trunk.0.bias": [0.9, 0.0, 0.0]}


def test_rows_are_ties_and_columns_are_epochs():
    (drawn,) = distance_heatmap(HISTORY).data
    assert drawn.type == "heatmap"
    assert list(drawn.y) == list(HISTORY)
    assert [list(row) for row in drawn.z] == list(HISTORY.values())
    # Without x the first column is epoch 0: the start.
    assert drawn.x is None


def test_first_tie_is_on_top():
    assert distance_heatmap(HISTORY).layout.yaxis.autorange == "reversed"


@pytest.mark.parametrize(("largest", "top"), [(0.2, 1.0), (1.0, 1.0), (1.4, 1.4)])
def test_colours_mean_the_same_in_every_figure(largest, top):
    (drawn,) = distance_heatmap({"w": [largest, 0.0]}).data
    assert (drawn.zmin, drawn.zmax) == (0.0, top)


def test_what_was_not_measured_does_not_count():
    assert distance_heatmap({"w": [float("nan"), 3.0]}).data[0].zmax == 3.0


def test_nothing_to_draw():
    (drawn,) = distance_heatmap({}).data
    assert list(drawn.z) == []


def test_can_be_written():
    figure = json.loads(distance_heatmap(HISTORY).to_json())
    assert figure["layout"]["xaxis"]["title"]["text"] == "epoch"
