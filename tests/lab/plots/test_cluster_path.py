from lit_share.lab.plots import cluster_path

COUNTS = {1.0: {"w": 1.0, "<v>": 2.5}, 0.001: {"w": 6.0, "<v>": 6.0}, 0.1: {"w": 2.0}}


def test_strengths_are_in_order_and_ties_in_that_of_the_network():
    (drawn,) = cluster_path(COUNTS).data
    assert list(drawn.x) == ["0.001", "0.1", "1"]
    assert list(drawn.y) == ["w", "&lt;v&gt;"]
    assert [list(row) for row in drawn.z] == [[6.0, 2.0, 1.0], [6.0, None, 2.5]]
    assert [list(row) for row in drawn.text] == [["6", "2", "1"], ["6", "", "2.5"]]


def test_the_scale_is_from_one_cluster_to_the_most():
    (drawn,) = cluster_path(COUNTS).data
    assert (drawn.zmin, drawn.zmax) == (1.0, 6)
    (drawn,) = cluster_path({0.1: {"w": 1.0}, 1.0: {"w": 1.0}}).data
    assert (drawn.zmin, drawn.zmax) == (1.0, 2)


def test_strengths_are_categories():
    assert cluster_path(COUNTS).layout.xaxis.type == "category"


def test_nothing_to_draw():
    assert list(cluster_path({}).data[0].y) == []
