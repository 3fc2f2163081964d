"""One question, asked in any number of domains."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lit_share.lab.data._arrays import SOURCES, Arrays, Source
from lit_share.lab.data._domains import DOMAINS, Domain
from lit_share.lab.data._known import known
from lit_share.lab.data._views import ManyViews, View


class ManyDomains(ManyViews):
    """Images of one data set for several models, each of which sees them in a domain of its own.

    No two models have a training image in common; validation and test show all models the same images, each in its
    domain. `train_dataloader()`, `val_dataloader()` and `test_dataloader()` each return a dict with an ordinary
    loader of `(images, labels)` for each name.

    Args:
        members: For the name of each model, what it sees and how many training images it has: `domain`, a name in
            `DOMAINS`; `n`, at least 1; and, for domains that take one, `amount`, `None` for the domain's default.
        dataset: `"digits"`, `"mnist"` or `"fashion_mnist"`.
        n_val: Validation images, at least 1.
        n_test: Test images, at least 1.
        batch_size: Images of a batch, at least 1; the last one of a pass may be short.
        seed: Draws the split, the order of training and what is random in a domain, at least 0. Two members with the
            same random domain have different noise.

    Attributes:
        num_classes: How many classes there are, for each name.
        input_shape: `(channels, height, width)` of an image.

    Raises:
        ValueError: If an argument is out of range, the data set does not hold images or has too few of them, or a
            member has other keys than those, or an amount that its domain does not take.

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
                'members is empty: write one at least, as in {"a": {"domain": "same", "n": 100}}'
            )
        views = {}
        for i, (name, member) in enumerate(members.items()):
            if {"domain", "n"} - {*member} or {*member} - {"domain", "n", "amount"}:
                raise ValueError(
                    f"members.{name} has the keys {', '.join(member)}: write domain, n and maybe amount"
                )
            see = seen_in(member["domain"], member.get("amount"), seed=len(members) * seed + i)
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
    """Look up a data set of images.

    Args:
        dataset: Its name in `SOURCES`.

    Returns:
        The data set.

    Raises:
        ValueError: If there is none of that name, or it holds no images.

    Example:
        >>> known_images("mnist").input_shape
        (1, 28, 28)
    """
    source = known(SOURCES, dataset=dataset)
    if source.is_table:
        images = ", ".join(f'"{name}"' for name, other in SOURCES.items() if not other.is_table)
        raise ValueError(
            f'domains are ways to see images, and dataset="{dataset}" has none: write one of {images}'
        )
    return source


def seen_in(domain: str, amount: float | None, seed: int) -> Callable[[Arrays], Arrays]:
    """See examples in a domain.

    Args:
        domain: A name in `DOMAINS`.
        amount: How far the domain is from the original; `None` for its default, and where it takes none.
        seed: For what is random in it, at least 0.

    Returns:
        A function of examples, which leaves their labels as they are.

    Raises:
        ValueError: If there is no such domain, or it takes no amount and is given one.

    Example:
        >>> import numpy as np
        >>> seen_in("inverted", None, seed=0)(Arrays(np.full((1, 1, 1), 0.25, np.float32), np.array([7])))
        Arrays(inputs=array([[[0.75]]], dtype=float32), labels=array([7]))
    """
    to_domain = known(DOMAINS, domain=domain)
    if amount is not None and to_domain.amount is None:
        raise ValueError(f'domain="{domain}" takes no amount: leave amount={amount} out')
    return partial(_see, to_domain, amount, seed)


def _see(domain: Domain, amount: float | None, seed: int, arrays: Arrays) -> Arrays:
    return arrays._replace(inputs=domain(arrays.inputs, amount, seed))
