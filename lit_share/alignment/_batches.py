"""Call submodules with each batch of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn

from lit_share.aliases import Inputs, evaluating
from lit_share.alignment._errors import AlignError
from lit_share.alignment._run import call, inputs_by_name

Batches = Iterable[Inputs | Mapping[str, Inputs]]


def check_loader(loader: Batches) -> None:
    """Raise an error if a loader is a single batch, or can be read only once."""
    if isinstance(loader, (Tensor, Mapping)):
        raise AlignError(
            f"the loader is one {type(loader).__name__}: give a list of batches or a DataLoader"
        )
    if isinstance(loader, Iterator):
        raise AlignError(
            f"the loader is a {type(loader).__name__}, which can be read only once: give a list of "
            "batches or a DataLoader"
        )


def call_each(
    members: Mapping[str, nn.Module],
    loader: Batches,
    around: Callable[[str], AbstractContextManager[object]],
) -> None:
    """Call each member with its inputs of each batch, in evaluation mode and without gradients.

    Args:
        members: The members by name.
        loader: Batches, each of which has inputs of all members.
        around: Returns a context that is open while the member of a name is called.

    Raises:
        AlignError: If there are no batches, or a member cannot be called with its inputs.
    """
    names = list(members)
    empty = True
    # Autocast keeps copies of weights, which may have changed in place since.
    torch.clear_autocast_cache()
    with ExitStack() as stack:
        for member in members.values():
            stack.enter_context(evaluating(member))
        for batch in loader:
            own = inputs_by_name(names, batch)
            empty = False
            for name, member in members.items():
                with around(name):
                    try:
                        call(member, own[name])
                    except AlignError as error:
                        raise AlignError(f"{name}: {error}") from error
    if empty:
        raise AlignError("the loader has no batches, and statistics are measured on them")
