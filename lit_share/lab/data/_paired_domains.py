"""One task in two domains."""

from collections.abc import Sequence

from lit_share.lab.data._many_domains import known_images, seen_in
from lit_share.lab.data._pair import pair
from lit_share.lab.data._views import ManyViews, View


class PairedDomains(ManyViews):
    """Unchanged images for model A, and few images in another domain for model B.

    The training images of A and B are disjoint; the validation images are the same for both, each
    in its domain, and so are the test images. `train_dataloader()`, `val_dataloader()` and
    `test_dataloader()` return a dict with a loader of `(images, labels)` batches for each name.

    Args:
        dataset: `"digits"`, `"mnist"` or `"fashion_mnist"`.
        domain: The domain of B: a name in `DOMAINS`.
        amount: Degrees of `"rotated"`, standard deviation of `"noisy"`, threshold of
            `"binarised"`; `None` for the domain's default.
        n_a: Training images of A, at least 1.
        n_b: Training images of B, at least 1.
        n_val: Validation images, at least 1.
        n_test: Test images, at least 1.
        batch_size: Images per batch, at least 1; the last batch of a pass may be smaller.
        seed: Seed of the split, the training order and random domains, at least 0.
        names: Keys of A and B in the dicts of loaders.

    Attributes:
        num_classes: Number of classes, for each name.
        input_shape: `(channels, height, width)` of an image.

    Raises:
        ValueError: If an argument is out of range, the data set has no images or too few, or an
            `amount` is given to a domain that takes none.

    Example:
        >>> data = PairedDomains("digits", "rotated", amount=20, n_a=500, n_b=50)
        >>> x, y = next(iter(data.train_dataloader()["b"]))
        >>> x.shape, y.shape
        (torch.Size([50, 1, 8, 8]), torch.Size([50]))
        >>> data.num_classes, data.input_shape
        ({'a': 10, 'b': 10}, (1, 8, 8))
    """

    def __init__(
        self,
        dataset: str = "digits",
        domain: str = "rotated",
        amount: float | None = None,
        n_a: int = 500,
        n_b: int = 50,
        n_val: int = 300,
        n_test: int = 600,
        batch_size: int = 50,
        seed: int = 0,
        names: Sequence[str] = ("a", "b"),
    ) -> None:
        source = known_images(dataset)
        a = View(seen_in("same", None, seed), source.num_classes, n_a, "n_a")
        b = View(seen_in(domain, amount, seed), source.num_classes, n_b, "n_b")
        super().__init__(
            dataset=dataset,
            views=pair(names, a, b),
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
        )
