"""Estimate the statistics of batch normalization anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_share.alignment._batches import Batches, call_each
from lit_share.alignment._errors import AlignError
from lit_share.alignment._moments import Moments


def normalizations(member: nn.Module) -> list[_BatchNorm]:
    """Return the layers that normalize by statistics which they tracked in training."""
    return [
        layer
        for layer in member.modules()
        if isinstance(layer, _BatchNorm)
        and layer.track_running_stats
        and layer.running_mean is not None
    ]


def check_batches(members: Mapping[str, nn.Module], loader: Batches) -> None:
    """Raise an error if `estimate` cannot measure the batches of a loader.

    Raises:
        AlignError: If there are no batches, a member cannot be called with its inputs, or a layer
            gets one number per unit in a batch.
    """

    def check(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        (values,) = (*args, *kwargs.values())
        if values.numel() == values.shape[1]:
            raise AlignError(
                f"{type(layer).__name__} gets one number per unit, which has no variance: give "
                "batches of several samples, such as with drop_last=True"
            )

    @contextmanager
    def around(name: str) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in normalizations(members[name]):
                handle = layer.register_forward_pre_hook(check, with_kwargs=True)
                stack.enter_context(handle)
            yield

    call_each(members, loader, around)


def estimate(members: Mapping[str, nn.Module], loader: Batches) -> None:
    """Set the statistics of batch normalization to those of its inputs over all batches.

    While they are measured, each layer normalizes by its batch, as in training, so that the inputs
    of later layers do not depend on statistics of the weights before. Members that share statistics
    get the mean over them.

    Args:
        members: The members by name.
        loader: Batches, each of which has inputs of all members.

    Raises:
        AlignError: If there are no batches, or a member cannot be called with its inputs; see
            `check_batches`.
    """
    found: dict[Tensor, dict[str, Moments]] = {}
    layers = {name: normalizations(member) for name, member in members.items()}

    @contextmanager
    def around(name: str) -> Iterator[None]:
        def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            mean = layer.running_mean
            assert isinstance(mean, Tensor)
            (values,) = (*args, *kwargs.values())
            found.setdefault(mean, {}).setdefault(name, Moments()).add(values, 1)

        with ExitStack() as stack:
            for layer in layers[name]:
                layer.train()
                handle = layer.register_forward_pre_hook(note, with_kwargs=True)
                stack.enter_context(handle)
            yield
        for layer in layers[name]:
            layer.eval()

    call_each(members, loader, around)
    for own in layers.values():
        for layer in own:
            if layer.running_mean in found:
                _set(layer, list(found[layer.running_mean].values()))


@torch.no_grad()
def _set(layer: _BatchNorm, moments: list[Moments]) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.stack([own.mean for own in moments]).mean(0))
    variances = torch.stack([own.variance(correction=1) for own in moments])
    layer.running_var.copy_(variances.mean(0))
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(sum(own.calls for own in moments))
