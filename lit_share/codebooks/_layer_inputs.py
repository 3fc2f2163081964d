"""The inputs that layers get in data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from lit_share.aliases import Inputs, arguments, evaluating
from lit_share.codebooks._covariance import Covariance
from lit_share.ties import TieError


def covariances(
    layers: Mapping[str, nn.Linear | nn.Conv2d], run: Callable[[], None]
) -> dict[str, Covariance]:
    """Return the covariance of the inputs with which layers are called.

    Args:
        layers: The layers by the names of their weights.
        run: Calls the module that has the layers with all data.

    Raises:
        TieError: If a layer is not called.
        ValueError: If an input is not finite.
    """
    found = {name: Covariance() for name in layers}
    with _noting(layers, found):
        run()
    for name, covariance in found.items():
        if covariance.count == 0:
            raise TieError(
                f"the layer of {name!r} was not called with any sample, so the correlations of its "
                "inputs are not known: exclude it, or give inputs that reach it"
            )
    return found


def call_with(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Call a module with each batch, in evaluation mode and without gradients.

    Raises:
        ValueError: If there is no batch, or the module cannot be called with it.
    """
    if isinstance(batches, (Tensor, Mapping)):
        raise ValueError(
            f"inputs is one {type(batches).__name__}: give a list of batches or a DataLoader"
        )
    empty = True
    with evaluating(module):
        for batch in batches:
            empty = False
            args, kwargs = arguments(batch)
            try:
                module(*args, **kwargs)
            except TypeError as error:
                raise ValueError(
                    f"{type(module).__name__} cannot be called with a batch of inputs ({error}): "
                    "give batches of what its forward takes, such as (x for x, _ in loader)"
                ) from error
    if empty:
        raise ValueError("inputs has no batches: correlations are computed on them")


@contextmanager
def _noting(
    layers: Mapping[str, nn.Linear | nn.Conv2d], found: Mapping[str, Covariance]
) -> Iterator[None]:
    handles = [
        layer.register_forward_pre_hook(partial(_note, name, found[name]), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(
    name: str, covariance: Covariance, layer: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> None:
    (values,) = (*args, *kwargs.values())
    try:
        # The dimension of inputs is counted from the end, because batch dimensions are optional.
        covariance.add(values, -3 if isinstance(layer, nn.Conv2d) else -1)
    except ValueError as error:
        raise ValueError(f"the layer of {name!r} {error}") from None
