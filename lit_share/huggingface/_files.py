"""Files of shared models in the format of transformers: each shared parameter is stored once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from lit_share.aliases import aliases_from_data, aliases_to_data, verify_shared
from lit_share.huggingface._transformers import PreTrainedModel
from lit_share.ties import TRANSPOSE, TieError

# The entry of config.json that has the aliases.
_ENTRY = "lit_share"


def save_pretrained(
    model: PreTrainedModel, folder: str | PathLike[str], *, copies: bool = False, **options: Any
) -> None:
    """Save a model that shares parameters, each of them once, with its aliases in ``config.json``.

    `transformers.PreTrainedModel.save_pretrained` refuses parameters with several names that the
    model's class does not declare. Load the folder with `from_pretrained` of this module: without
    lit_share, the names that are left out would be drawn at random.

    Args:
        model: The model, which stays as it is.
        folder: Where to save it.
        copies: Whether each name gets a copy of its own. The folder is larger, and loads without
            lit_share; `lit_share.share` with ``where="equal"`` makes copies one Parameter again.
        **options: As for `transformers.PreTrainedModel.save_pretrained`.

    Raises:
        TieError: If parameters that were shared differ now, or positions of a locally connected
            layer are shared, which transformers cannot load.

    Example:
        >>> import lit_share as ls
        >>> ls.share(model, ls.Ties("encoder.*", "decoder.*"))  # doctest: +SKIP
        >>> save_pretrained(model, "tied")  # doctest: +SKIP
        >>> model = from_pretrained(transformers.EncoderDecoderModel, "tied")  # doctest: +SKIP
    """
    verify_shared(model)
    state = model.state_dict()
    if copies:
        state = {name: value.clone().contiguous() for name, value in state.items()}
        model.save_pretrained(folder, state_dict=state, **options)
        return
    groups = alias_names(model)
    repeated = {name.removesuffix(TRANSPOSE.text) for names in groups for name in names[1:]}
    state = {name: value for name, value in state.items() if name not in repeated}
    before = getattr(model.config, _ENTRY, [])
    _set_entry(model, groups)
    try:
        model.save_pretrained(folder, state_dict=state, **options)
    finally:
        _set_entry(model, before)


def from_pretrained(
    model_class: type[PreTrainedModel], folder: str | PathLike[str], **options: Any
) -> Any:
    """Load what `save_pretrained` or a Trainer with `Share` has saved, with its aliases.

    Args:
        model_class: The class of the model, such as ``transformers.GPT2LMHeadModel``.
        folder: The folder on this machine.
        **options: As for `transformers.PreTrainedModel.from_pretrained`.

    Returns:
        The model, whose shared parameters are one Parameter again.

    Raises:
        TieError: If the folder's aliases do not fit the class.

    Warns:
        UserWarning: If the folder lacks parameters other than aliases, which are drawn at random.
    """
    verbosity = logging.get_verbosity()
    # transformers would warn of each alias that it is drawn at random.
    logging.set_verbosity_error()
    try:
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    finally:
        logging.set_verbosity(verbosity)
    groups: list[list[str]] = getattr(model.config, _ENTRY, [])
    missing = set(info["missing_keys"])
    for names in groups:
        missing -= _fill(model, names, missing)
    if missing or info["unexpected_keys"]:
        warnings.warn(
            f"{folder} has no entries for {sorted(missing)}, and {model_class.__name__} none for "
            f"{sorted(info['unexpected_keys'])}: the former are drawn at random",
            stacklevel=2,
        )
    aliases_from_data(model, [{"names": names} for names in groups])
    _set_entry(model, [])
    return model


def declare_shared(model: PreTrainedModel) -> None:
    """Let ``model.save_pretrained``, which a Trainer calls, store each shared parameter once.

    Raises:
        TieError: If a parameter is the transpose of another, or positions are shared.
    """
    groups = alias_names(model)
    transposed = [name for names in groups for name in names if name.endswith(TRANSPOSE.text)]
    if transposed:
        raise TieError(
            f"{transposed[0]!r} is a transpose, which checkpoints of transformers.Trainer cannot "
            "hold: write save_strategy='no' and save with lit_share.huggingface.save_pretrained"
        )
    # The class declares its own aliases there: those of embeddings and heads.
    declared = dict(getattr(model, "_tied_weights_keys", None) or {})
    for first, *others in groups:
        declared |= {name: first for name in others if name not in declared}
    model._tied_weights_keys = declared
    _set_entry(model, groups)


def alias_names(model: PreTrainedModel) -> list[list[str]]:
    """Return the names of each shared parameter or buffer, with ``.T`` after those of transposes.

    Raises:
        TieError: If positions of a locally connected layer are shared.
    """
    entries = aliases_to_data(model)
    for entry in entries:
        if "convolution" in entry:
            raise TieError(
                f"the positions of {entry['convolution']!r} are shared, and transformers loads no "
                "convolution in place of its layer: use lit_share.save_compact"
            )
    return [list(entry["names"]) for entry in entries]


def _set_entry(model: PreTrainedModel, groups: list[list[str]]) -> None:
    """Set the aliases in a model's config; remove the entry if there are none."""
    vars(model.config).pop(_ENTRY, None)
    if groups:
        setattr(model.config, _ENTRY, groups)


@torch.no_grad()
def _fill(model: PreTrainedModel, names: Sequence[str], missing: set[str]) -> set[str]:
    """Copy to the missing names of a group what the others have; return those that were missing."""
    suffix = TRANSPOSE.text
    found = [name for name in names if name.removesuffix(suffix) not in missing]
    if not found:
        return set()
    value: Tensor = model.get_parameter_or_buffer(found[0].removesuffix(suffix)).detach()
    filled = set()
    for name in names:
        own = name.removesuffix(suffix)
        if own in missing:
            is_turned = name.endswith(suffix) != found[0].endswith(suffix)
            model.get_parameter_or_buffer(own).copy_(value.T if is_turned else value)
            filled.add(own)
    return filled
