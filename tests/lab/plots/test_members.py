from lit_share.callbacks import cluster_heatmap
from lit_share.lab.plots import member_clusters, tied_heatmap

CLUSTERS = {"w": {"a.w": 0, "b.w": 0, "c.w": 1}}


def test_the_figure_is_that_of_callbacks_in_the_layout_of_the_page():
    figure = member_clusters(CLUSTERS, "seed 0", "cluster_tie")
    assert figure.data == cluster_heatmap(CLUSTERS).data
    assert figure.layout.font == tied_heatmap({"none": {"w": 0.0}}).layout.font
    assert figure.layout.title.text == "cluster_tie"
    assert figure.layout.xaxis.title.text == "seed 0"
    assert figure.layout.yaxis.autorange == "reversed"
