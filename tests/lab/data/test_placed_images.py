import numpy as np
import pytest
import torch

from lit_share.lab.data import PlacedImages
from lit_share.lab.data._placed_images import placed
from lit_share.lab.data._sources import digits

SIZES = {"n_train": 60, "n_val": 40, "n_test": 50}


def part(data, stage):
    """All images and labels of a part, in the order in which they lie."""
    return getattr(data, f"{stage}_dataloader")().dataset.tensors


def found_at(canvas, image):
    """The places at which a canvas holds an image, and is zero elsewhere."""
    height, width = image.shape
    places = []
    for row in range(canvas.shape[0] - height + 1):
        for column in range(canvas.shape[1] - width + 1):
            expected = np.zeros_like(canvas)
            expected[row : row + height, column : column + width] = image
            if np.array_equal(canvas, expected):
                places.append((row, column))
    return places


def test_images_are_whole_at_their_places():
    images = np.random.default_rng(0).random((400, 2, 3)).astype(np.float32)
    canvases = placed(images, canvas=5, place="random", seed=1)
    assert canvases.shape == (400, 5, 5)
    assert canvases.dtype == images.dtype
    places = [
        place
        for canvas, image in zip(canvases, images, strict=True)
        for place in found_at(canvas, image)
    ]
    assert len(places) == 400
    counts = {place: places.count(place) for place in set(places)}
    assert counts.keys() == {(row, column) for row in range(4) for column in range(3)}, (
        "every place occurs"
    )
    assert min(counts.values()) > 400 / 12 / 2, "about equally often"


@pytest.mark.parametrize(("canvas", "place"), [(3, (0, 0)), (4, (1, 0)), (5, (1, 1)), (7, (2, 2))])
def test_the_centre(canvas, place):
    images = np.random.default_rng(0).random((2, 1, 2, 3))
    canvases = placed(images, canvas, "centre", seed=0)
    assert canvases.shape == (2, 1, canvas, canvas)
    assert [found_at(c, i) for c, i in zip(canvases[:, 0], images[:, 0], strict=True)] == [
        [place]
    ] * 2


def test_images_are_left_alone_and_the_seed_decides():
    images = np.random.default_rng(0).random((20, 1, 2, 3))
    before = images.copy()
    one, again, other = (placed(images, 9, "random", seed) for seed in (1, 1, 2))
    assert np.array_equal(images, before)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
def test_small_canvases_are_refused(shape):
    with pytest.raises(
        ValueError, match=rf"canvas=3 is smaller than images of {shape[0]} × {shape[1]}"
    ):
        placed(np.zeros((1, *shape)), 3, "random", 0)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"place": "random"}, {"train": "random", "val": "random", "test": "random"}),
        ({"place": "centre"}, {"train": "centre", "val": "centre", "test": "centre"}),
        (
            {"place": "centre", "test_place": "random"},
            {"train": "centre", "val": "centre", "test": "random"},
        ),
        (
            {"place": "random", "test_place": "centre"},
            {"train": "random", "val": "random", "test": "centre"},
        ),
    ],
)
def test_where_the_images_of_each_part_are(options, places):
    data = PlacedImages(canvas=12, **SIZES, **options)
    for stage, place in places.items():
        images, _ = part(data, stage)
        margin = images.clone()
        margin[..., 2:10, 2:10] = 0.0
        assert bool(margin.any()) == (place == "random"), stage


def test_each_image_is_of_the_data_set_with_its_label_and_in_one_part():
    data = PlacedImages(canvas=8, **SIZES, seed=3)
    known = {image.tobytes(): int(label) for image, label in zip(*digits(), strict=True)}
    shown = {stage: part(data, stage) for stage in ("train", "val", "test")}
    assert {stage: len(y) for stage, (_, y) in shown.items()} == {
        "train": 60,
        "val": 40,
        "test": 50,
    }
    keys = [image.numpy().tobytes() for x, _ in shown.values() for image in x]
    labels = [int(label) for _, y in shown.values() for label in y]
    assert [known[key] for key in keys] == labels
    assert len(set(keys)) == 150


def test_parts_are_placed_differently():
    """Otherwise the n-th image of each part would be at the same place."""
    data = PlacedImages(canvas=20, n_train=50, n_val=50, n_test=50)
    columns = [
        (part(data, stage)[0].amax(dim=(1, 2)) > 0).float().argmax(dim=1)
        for stage in ("train", "val", "test")
    ]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert (columns[one] == columns[two]).float().mean() < 0.4


def test_canvases_of_one_seed_show_the_same_images():
    small, large = PlacedImages(canvas=8, **SIZES), PlacedImages(canvas=14, place="centre", **SIZES)
    for stage in ("train", "val", "test"):
        (x, y), (z, labels) = part(small, stage), part(large, stage)
        assert torch.equal(x, z[..., 3:11, 3:11])
        assert torch.equal(y, labels)
    other = PlacedImages(canvas=8, **SIZES, seed=1)
    assert not torch.equal(part(small, "train")[0], part(other, "train")[0])


def test_batches_are_what_a_classifier_takes():
    data = PlacedImages(canvas=11, **SIZES, batch_size=25)
    assert (data.input_shape, data.num_classes) == ((1, 11, 11), 10)
    for stage, count in (("train", 60), ("val", 40), ("test", 50)):
        batches = list(getattr(data, f"{stage}_dataloader")())
        assert sum(len(x) for x, _ in batches) == count
        assert all(len(x) == 25 for x, _ in batches[:-1])
        for x, y in batches:
            assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
            assert x.shape[1:] == data.input_shape


def test_only_training_images_come_in_a_new_order():
    data = PlacedImages(**SIZES)
    for stage, shuffled in (("train", True), ("val", False), ("test", False)):
        loader = getattr(data, f"{stage}_dataloader")()
        first, second = (torch.cat([x for x, _ in loader]) for _ in range(2))
        assert torch.equal(first, second) != shuffled
        assert torch.equal(first.sum(), second.sum()) or shuffled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "letters"}, 'dataset="letters" is not known'),
        ({"dataset": "wine"}, 'dataset="wine" is a table: only images can be placed'),
        ({"canvas": 7}, "canvas=7 is smaller than images of 8 × 8: make it larger"),
        ({"place": "left"}, 'place="left" is not known: write one of "random", "centre"'),
        ({"test_place": "left"}, 'test_place="left" is not known'),
        ({"n_train": 0}, "n_train=0 must be at least 1"),
        ({"n_val": 0}, "n_val=0 must be at least 1"),
        ({"n_test": -1}, "n_test=-1 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        (
            {"n_train": 1000, "n_test": 600},
            r"= 1000 \+ 300 \+ 600 = 1900, but \"digits\" has 1797 examples",
        ),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        PlacedImages(**options)
