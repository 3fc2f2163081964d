"""One question, asked in two domains."""

from collections.abc import Sequence

from lit_share.lab.data._many_domains import known_images, seen_in
from lit_share.lab.data._pair import PairData


class PairedDomains(PairData):
    """Images as they are for model A, and images in another domain for model B, which has few of them.

    The training images of A and B are different ones; validation and test show both models the same images,
    each in its domain. `train_dataloader()`, `val_dataloader()` and `test_dataloader()` each return a dict
    with an ordinary loader of `(images, labels)` for either name.

    Args:
        dataset: `"digits"`, `"mnist"` or `"fashion_mnist"`.
        domain: What B sees: a name in `DOMAINS`.
        amount: How far that is from the original: degrees of `"rotated"`, standard deviation of `"noisy"`,
            threshold of `"binarised"`. `None` for the domain's default.
        n_a: Training images of A, at least 1.
        n_b: Training images of B, at least 1.
        n_val: Validation images, at least 1.
        n_test: Test images, at least 1.
        batch_size: Images of a batch, at least 1; the last one of a pass may be short.
        seed: Draws the split, the order of training and what is random in a domain, at least 0.
        names: Keys of A and B in the dicts of loaders.

    Attributes:
        num_classes: How many classes there are, for each name.
        input_shape: `(channels, height, width)` of an image.

    Raises:
        ValueError: If an argument is out of range, the data set does not hold images or has too few of them,
            or an amount is given to a domain that takes none.

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
        super().__init__(
            dataset=dataset,
            views=(seen_in("same", None, seed), seen_in(domain, amount, seed)),
            num_classes=(source.num_classes, source.num_classes),
            n_a=n_a,
            n_b=n_b,
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
            names=names,
        )
