"""The inputs that layers get in data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lit_share.aliases import Inputs, arguments, evaluating
from lit_share.codebooks._covariance import Covariance
from lit_share.ties import TieError


def covariances(
    layers: Mapping[str, nn.Linear | nn.Conv2d], run: Callable[[], None], hidden: bool = True
) -> dict[str, Covariance | None]:
    """Return the covariance of the inputs with which layers are called.

    Args:
        layers: The layers by the names of their weights.
        run: Calls the module that has the layers with all data.
        hidden: Whether layers count whose inputs depend on parameters that are trained; such a
            layer gets ``None`` otherwise.

    Raises:
        TieError: If a layer is not called.
        ValueError: If an input is not finite.
    """
    notes = {name: _Note(name, hidden) for name in layers}
    handles = [
        layer.register_forward_pre_hook(notes[name], with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for name, note in notes.items():
        if note.covariance.count == 0 and not note.is_hidden:
            raise TieError(
                f"the layer of {name!r} was not called with any sample, so the covariance of its "
                "inputs is not known: exclude it, or give inputs that reach it"
            )
    return {name: None if note.is_hidden else note.covariance for name, note in notes.items()}


def call_with(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Call a module with each batch, in evaluation mode.

    Raises:
        ValueError: If there is no batch, or the module cannot be called with it.
    """
    if isinstance(batches, (Tensor, Mapping)):
        raise ValueError(
            f"inputs is one {type(batches).__name__}: give a list of batches or a DataLoader"
        )
    empty = True
    # Gradients tell which inputs depend on parameters.
    with evaluating(module), torch.enable_grad():
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


class _Note:
    """A hook that adds what a layer is called with to a covariance."""

    def __init__(self, name: str, hidden: bool) -> None:
        self.name, self.takes_hidden = name, hidden
        self.covariance, self.is_hidden = Covariance(), False

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        (values,) = (*args, *kwargs.values())
        # Whatever trained parameters computed requires a gradient.
        self.is_hidden |= values.requires_grad and not self.takes_hidden
        if self.is_hidden:
            return
        # Batch dimensions are optional, so that dimensions are counted from the end.
        dim = -3 if isinstance(layer, nn.Conv2d) else -1
        try:
            self.covariance.add(values, dim)
        except ValueError as error:
            raise ValueError(f"the layer of {self.name!r} {error}") from None
