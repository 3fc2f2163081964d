import numpy as np
import pytest
import torch

from lit_share.lab.plots import position_filters
from lit_share.local import LocallyConnected2d


def test_filters_are_where_their_positions_are():
    filters = np.arange(24.0).reshape(2, 3, 2, 2)
    (drawn,) = position_filters({"start": filters}).data
    shown = np.array([[np.nan if cell is None else cell for cell in row] for row in drawn.z])
    assert shown.shape == (5, 8)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(
                shown[3 * row : 3 * row + 2, 3 * column : 3 * column + 2], filters[row, column]
            )
    assert np.isnan(shown[2]).all()
    assert np.isnan(shown[:, [2, 5]]).all()


def test_panels_have_the_same_colours():
    panels = {str(i): i * np.ones((2, 2, 1, 1)) for i in range(6)}
    figure = position_filters(panels, title="<b>x</b>")
    assert {(drawn.zmin, drawn.zmax) for drawn in figure.data} == {(-5.0, 5.0)}
    assert [a.text for a in figure.layout.annotations] == list(panels)
    assert figure.layout.title.text == "&lt;b&gt;x&lt;/b&gt;"
    # Four beside each other, and two below.
    assert len({drawn.yaxis for drawn in figure.data}) == 6
    assert figure.layout.height > position_filters({"0": panels["0"]}).layout.height
    assert all(axis.scaleanchor == axis.anchor for axis in figure.select_yaxes())


def test_names_are_not_read_as_tags():
    assert (
        position_filters({"<i>": np.ones((1, 1, 1, 1))}).layout.annotations[0].text == "&lt;i&gt;"
    )


def test_the_filters_of_a_layer():
    layer = LocallyConnected2d.from_conv(torch.nn.Conv2d(1, 2, 3), input_size=6)
    (drawn,) = position_filters(
        {"start": layer.weight.detach()[:, 0, 0].reshape(*layer.output_size, 3, 3)}
    ).data
    assert list(drawn.z[0][:3]) == list(drawn.z[4][4:7])  # all the same


def test_shapes_are_checked():
    with pytest.raises(
        ValueError, match=r"'start' must have shape .rows, columns, height, width., got \(3, 3\)"
    ):
        position_filters({"start": np.ones((3, 3))})


@pytest.mark.parametrize("panels", [{}, {"zeros": np.zeros((1, 1, 1, 1))}])
def test_nothing_to_draw(panels):
    assert len(position_filters(panels).data) == len(panels)
