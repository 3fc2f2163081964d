"""Images at random places of a larger canvas, or in its centre."""

from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lit_share.lab.data._batches import MemoryDataset, Shuffle, batches
from lit_share.lab.data._checks import check_sizes, known
from lit_share.lab.data._sources import SOURCES, Floats
from lit_share.lab.data._split import split

Place = Literal["random", "centre"]


def placed(images: Floats, canvas: int, place: Place, seed: int) -> Floats:
    """Copy each image to a larger canvas of zeros.

    Args:
        images: Shape `(images, ..., height, width)`.
        canvas: Height and width of a canvas, at least those of an image.
        place: `"random"`, drawn independently for each image, or `"centre"`.
        seed: Seed of the random places, at least 0.

    Returns:
        Canvases of shape `(images, ..., canvas, canvas)`.

    Raises:
        ValueError: If images do not fit on the canvas.

    Example:
        >>> placed(np.ones((1, 1, 2), np.float32), canvas=3, place="centre", seed=0)
        array([[[0., 0., 0.],
                [1., 1., 0.],
                [0., 0., 0.]]], dtype=float32)
    """
    *leading, height, width = images.shape
    margins = np.array([canvas - height, canvas - width])
    if margins.min() < 0:
        raise ValueError(
            f"canvas={canvas} is smaller than images of {height} × {width}: make it larger"
        )
    flat = images.reshape(len(images), -1, height, width)
    offsets = np.broadcast_to(margins // 2, (len(flat), 2))
    if place == "random":
        rng = np.random.default_rng(seed)
        offsets = rng.integers(0, margins, size=(len(flat), 2), endpoint=True)
    canvases = np.zeros((*flat.shape[:2], canvas, canvas), images.dtype)
    for image, on_canvas, (top, left) in zip(flat, canvases, offsets, strict=True):
        on_canvas[:, top : top + height, left : left + width] = image
    return canvases.reshape(*leading, canvas, canvas)


class PlacedImages(LightningDataModule):
    """Images at random places of a larger canvas, or in its centre: data for one model.

    Loaders yield `(images, labels)` batches. The split is stratified by class.

    Args:
        dataset: `"digits"`, `"mnist"` or `"fashion_mnist"`.
        canvas: Height and width of a canvas, at least those of an image.
        place: Place of training and validation images: `"random"` or `"centre"`.
        test_place: Place of test images; `None` for `place`.
        n_train: Training images, at least 1.
        n_val: Validation images, at least 1.
        n_test: Test images, at least 1.
        batch_size: Images per batch, at least 1; the last batch of a pass may be smaller.
        seed: Seed of the split, the random places and the training order, at least 0.

    Attributes:
        num_classes: Number of classes.
        input_shape: `(channels, height, width)` of a canvas.

    Raises:
        ValueError: If an argument is out of range, or the data set has no images or too few.

    Example:
        >>> data = PlacedImages("digits", canvas=12, n_train=100)
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([50, 1, 12, 12]), torch.Size([50]))
    """

    def __init__(
        self,
        dataset: str = "digits",
        canvas: int = 12,
        place: Place = "random",
        test_place: Place | None = None,
        n_train: int = 300,
        n_val: int = 300,
        n_test: int = 600,
        batch_size: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        source = known(SOURCES, dataset=dataset)
        if source.is_table:
            raise ValueError(f'dataset="{dataset}" is a table: only images can be placed')
        for name, value in (("place", place), ("test_place", test_place or place)):
            known(dict.fromkeys(("random", "centre")), **{name: value})
        channels, height, width = source.input_shape
        # `placed` checks it again, but only after the data have been loaded.
        if canvas < max(height, width):
            raise ValueError(
                f"canvas={canvas} is smaller than images of {height} × {width}: make it larger"
            )
        sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test}
        check_sizes(sizes, batch_size, seed, dataset, source)
        self.num_classes = source.num_classes
        self.input_shape = (channels, canvas, canvas)
        self.batch_size = batch_size
        self._source, self._seed = source, seed
        # The training part comes last, so that its size changes no other part.
        self._sizes = {"test": n_test, "val": n_val, "train": n_train}
        self._places: dict[str, Place] = {"train": place, "val": place, "test": test_place or place}
        self._parts: dict[str, MemoryDataset] = {}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Load, split and place the images at the first call.

        Args:
            stage: Ignored; all stages come from one split.
        """
        if self._parts:
            return
        arrays = self._source.load()
        for i, (part, which) in enumerate(split(arrays.labels, self._sizes, self._seed).items()):
            images, labels = arrays.rows(which)
            canvas = self.input_shape[-1]
            # With three parts, `3 * seed + i` differs between all parts of all seeds.
            images = placed(images, canvas, self._places[part], seed=3 * self._seed + i)
            self._parts[part] = MemoryDataset(torch.from_numpy(images), torch.from_numpy(labels))

    def train_dataloader(self) -> DataLoader:
        """Return a loader of the training images, in a new order each pass."""
        self.setup()
        shuffle = Shuffle(self._sizes["train"], (self._seed,))
        return batches(self._parts["train"], self.batch_size, shuffle)

    def val_dataloader(self) -> DataLoader:
        """Return a loader of the validation images."""
        self.setup()
        return batches(self._parts["val"], self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Return a loader of the test images."""
        self.setup()
        return batches(self._parts["test"], self.batch_size)
