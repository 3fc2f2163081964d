"""The part of a pair's checkpoint that belongs to one child."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule

# What children put into the checkpoint is kept here, by child, so that entries of one name do not meet.
CHILDREN = "paired_children"
_COMMON = ("epoch", "global_step", "pytorch-lightning_version")


def split(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    """A child's part of a checkpoint, as the child alone would have written it.

    Example:
        >>> split({"epoch": 1, "state_dict": {"a.weight": 1.0, "b.weight": 2.0}}, "b")
        {'epoch': 1, 'state_dict': {'weight': 2.0}}
    """
    state = {
        key.removeprefix(f"{name}."): checkpoint["state_dict"][key]
        for key in _keys(checkpoint, name)
    }
    common = {key: checkpoint[key] for key in _COMMON if key in checkpoint}
    return {**common, "state_dict": state, **checkpoint.get(CHILDREN, {}).get(name, {})}


def merge(checkpoint: dict[str, Any], name: str, part: dict[str, Any]) -> None:
    """Put back into the checkpoint what `split` gave, as the child changed it."""
    for key in _keys(checkpoint, name):
        del checkpoint["state_dict"][key]
    checkpoint["state_dict"].update(
        {f"{name}.{key}": value for key, value in part["state_dict"].items()}
    )
    entries = {key: value for key, value in part.items() if key not in (*_COMMON, "state_dict")}
    checkpoint.setdefault(CHILDREN, {})[name] = entries


def hyperparameters(child: LightningModule) -> dict[str, Any]:
    """The entries with which `load_from_checkpoint` calls the child's `__init__`, as Lightning writes them."""
    if not child.hparams:
        return {}
    entries: dict[str, Any] = {
        child.CHECKPOINT_HYPER_PARAMS_NAME: getattr(child, "_hparams_name", None)
    }
    if isinstance(child.hparams, dict):
        return {**entries, child.CHECKPOINT_HYPER_PARAMS_KEY: dict(child.hparams)}
    # An OmegaConf container, which `__init__` wants back as one.
    container = {child.CHECKPOINT_HYPER_PARAMS_KEY: child.hparams}
    return {**entries, **container, child.CHECKPOINT_HYPER_PARAMS_TYPE: type(child.hparams)}


def _keys(checkpoint: dict[str, Any], name: str) -> list[str]:
    return [key for key in checkpoint["state_dict"] if key.startswith(f"{name}.")]
