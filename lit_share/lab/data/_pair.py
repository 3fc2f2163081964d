"""The base class of the data modules for two models."""

from collections.abc import Callable, Sequence

from lit_share.lab.data._arrays import Arrays
from lit_share.lab.data._views import ManyViews, View


class PairData(ManyViews):
    """Two views of one data set, each with training examples of its own.

    Args:
        dataset: A name in `SOURCES`.
        views: What the first model sees of some examples, and what the second one sees.
        num_classes: How many classes there are in each view.
        n_a: Training examples of the first view, at least 1.
        n_b: Training examples of the second view, at least 1.
        n_val: Validation examples, at least 1.
        n_test: Test examples, at least 1.
        batch_size: Examples of a batch, at least 1; the last one of a pass may be short.
        seed: Draws the split and the order of training, at least 0.
        names: Keys of the two in the dicts of loaders.

    Raises:
        ValueError: If an argument is out of range, or the data set has too few examples.

    Example:
        >>> def see(examples):
        ...     return examples
        >>> data = PairData(
        ...     dataset="wine", views=(see, see), num_classes=(3, 3), names=("red", "white"),
        ...     n_a=60, n_b=20, n_val=30, n_test=60, batch_size=20, seed=0,
        ... )
        >>> {name: len(loader) for name, loader in data.train_dataloader().items()}
        {'red': 3, 'white': 1}
    """

    def __init__(
        self,
        *,
        dataset: str,
        views: tuple[Callable[[Arrays], Arrays], Callable[[Arrays], Arrays]],
        num_classes: tuple[int, int],
        n_a: int,
        n_b: int,
        n_val: int,
        n_test: int,
        batch_size: int,
        seed: int,
        names: Sequence[str],
    ) -> None:
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(
                f'names={tuple(names)} must be two different ones, as in names=("a", "b")'
            )
        both = map(View, views, num_classes, (n_a, n_b), ("n_a", "n_b"))
        super().__init__(
            dataset=dataset,
            views=dict(zip(names, both, strict=True)),
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
        )
