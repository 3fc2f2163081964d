"""One task in any number of domains."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lit_share.lab.data._checks import known
from lit_share.lab.data._domains import DOMAINS, Domain
from lit_share.lab.data._sources import SOURCES, Arrays, Source
from lit_share.lab.data._views import ManyViews, View


class ManyDomains(ManyViews):
    """Images of one data set for several models, in a different domain for each model.

    No two models have a training image in common; the validation images are the same for all
    models, each in its domain, and so are the test images. `train_dataloader()`,
    `val_dataloader()` and `test_dataloader()` return a dict with a loader of `(images, labels)`
    batches for each model.

    Args:
        members: For the name of each model, a dict with `domain`, a name in `DOMAINS`; `n`, its
            training images, at least 1; optionally `amount`, for domains that take an amount
            (`None` for the domain's default); and optionally `labels`, the label that this model
            gives to each class, as where sites number their classes differently (`None` for the
            data set's own).
        dataset: `"digits"`, `"mnist"` or `"fashion_mnist"`.
        n_val: Validation images, at least 1.
        n_test: Test images, at least 1.
        batch_size: Images per batch, at least 1; the last batch of a pass may be smaller.
        seed: Seed of the split, the training order and random domains, at least 0. Two members
            with the same random domain have different noise.

    Attributes:
        num_classes: Number of classes, for each name.
        input_shape: `(channels, height, width)` of an image.

    Raises:
        ValueError: If an argument is out of range, the data set has no images or too few, a
            member has other keys, an `amount` is given to a domain that takes none, or `labels`
            are not the numbers of all classes in another order.

    Example:
        >>> data = ManyDomains({
        ...     "a": {"domain": "same", "n": 100},
        ...     "b": {"domain": "rotated", "amount": 20, "n": 50},
        ...     "c": {"domain": "noisy", "n": 20},
        ... })
        >>> x, y = next(iter(data.train_dataloader()["c"]))
        >>> x.shape, y.shape
        (torch.Size([20, 1, 8, 8]), torch.Size([20]))
        >>> data.num_classes
        {'a': 10, 'b': 10, 'c': 10}
    """

    def __init__(
        self,
        members: Mapping[str, Mapping[str, Any]],
        dataset: str = "digits",
        n_val: int = 300,
        n_test: int = 600,
        batch_size: int = 50,
        seed: int = 0,
    ) -> None:
        source = known_images(dataset)
        if not members:
            raise ValueError(
                'members is empty: write at least one, as in {"a": {"domain": "same", "n": 100}}'
            )
        views = {}
        for i, (name, member) in enumerate(members.items()):
            if not {"domain", "n"} <= {*member} <= {"domain", "n", "amount", "labels"}:
                raise ValueError(
                    f"members.{name} has the keys {', '.join(member)}: "
                    "write domain, n and maybe amount and labels"
                )
            # `members * seed + i` differs between all members of all seeds.
            see = seen_in(member["domain"], member.get("amount"), seed=len(members) * seed + i)
            labels = member.get("labels")
            if labels is not None:
                _check_labels(labels, source.num_classes, f"members.{name}.labels")
                see = partial(_relabelled, see, tuple(labels))
            views[name] = View(see, source.num_classes, member["n"], f"members.{name}.n")
        super().__init__(
            dataset=dataset,
            views=views,
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
        )


def known_images(dataset: str) -> Source:
    """Look up a data set of images in `SOURCES`.

    Raises:
        ValueError: If there is no data set of that name, or it is a table.

    Example:
        >>> known_images("mnist").input_shape
        (1, 28, 28)
    """
    source = known(SOURCES, dataset=dataset)
    if source.is_table:
        images = ", ".join(f'"{name}"' for name, other in SOURCES.items() if not other.is_table)
        raise ValueError(
            f'domains are ways to see images, and dataset="{dataset}" has none: '
            f"write one of {images}"
        )
    return source


def seen_in(domain: str, amount: float | None, seed: int) -> Callable[[Arrays], Arrays]:
    """Return the function that transforms examples to a domain and keeps their labels.

    Args:
        domain: A name in `DOMAINS`.
        amount: The amount of the domain; `None` for its default, or if it takes none.
        seed: Seed of random domains, at least 0.

    Raises:
        ValueError: If the domain is unknown, or takes no amount and is given one.

    Example:
        >>> import numpy as np
        >>> examples = Arrays(np.full((1, 1, 1), 0.25, np.float32), np.array([7]))
        >>> seen_in("inverted", None, seed=0)(examples)
        Arrays(inputs=array([[[0.75]]], dtype=float32), labels=array([7]))
    """
    to_domain = known(DOMAINS, domain=domain)
    if amount is not None and to_domain.amount is None:
        raise ValueError(f'domain="{domain}" takes no amount: leave amount={amount} out')
    # A partial can be pickled, as spawned processes need it; a closure cannot.
    return partial(_transform, to_domain, amount, seed)


def _check_labels(labels: Any, classes: int, argument: str) -> None:
    # Sorting a number, or numbers and words, would raise an error that names no argument.
    is_list = isinstance(labels, (Sequence, np.ndarray))
    has_numbers = is_list and all(isinstance(label, (int, np.integer)) for label in labels)
    if not has_numbers or sorted(labels) != [*range(classes)]:
        raise ValueError(
            f"{argument}={labels!r}: write the label of each class, the numbers from 0 to "
            f"{classes - 1} in any order"
        )


def _relabelled(see: Callable[[Arrays], Arrays], labels: tuple[int, ...], arrays: Arrays) -> Arrays:
    seen = see(arrays)
    return seen._replace(labels=np.array(labels, seen.labels.dtype)[seen.labels])


def _transform(domain: Domain, amount: float | None, seed: int, arrays: Arrays) -> Arrays:
    return arrays._replace(inputs=domain(arrays.inputs, amount, seed))
