"""Conversion between the checkpoints of a pair and of one child."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule

# The key of entries that children add, by child: two children may add entries of the same name.
CHILDREN = "paired_children"
# Entries that are the same for the pair and its children.
_COMMON = ("epoch", "global_step", "pytorch-lightning_version")


def split(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the checkpoint that a Trainer of this child alone would have written.

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


def merge(checkpoint: dict[str, Any], name: str, own: dict[str, Any]) -> None:
    """Replace a child's entries in the pair's checkpoint by `own`, as `split` returns them."""
    # Old keys are deleted first, since the child may have removed or renamed some.
    for key in _keys(checkpoint, name):
        del checkpoint["state_dict"][key]
    for key, value in own["state_dict"].items():
        checkpoint["state_dict"][f"{name}.{key}"] = value
    entries = {key: value for key, value in own.items() if key not in (*_COMMON, "state_dict")}
    checkpoint.setdefault(CHILDREN, {})[name] = entries


def hyperparameters(child: LightningModule | LightningDataModule) -> dict[str, Any]:
    """Return the entries that `load_from_checkpoint` passes to `__init__` of a child or its data.

    The keys are those of LightningModules or LightningDataModules.
    """
    # Lightning's `dump_checkpoint` writes the same entries, for the whole pair only.
    if not child.hparams:
        return {}
    entries: dict[str, Any] = {
        child.CHECKPOINT_HYPER_PARAMS_NAME: getattr(child, "_hparams_name", None)
    }
    if isinstance(child.hparams, dict):
        return {**entries, child.CHECKPOINT_HYPER_PARAMS_KEY: dict(child.hparams)}
    # The hyperparameters are an OmegaConf container, which `__init__` expects.
    container = {child.CHECKPOINT_HYPER_PARAMS_KEY: child.hparams}
    return {**entries, **container, child.CHECKPOINT_HYPER_PARAMS_TYPE: type(child.hparams)}


def _keys(checkpoint: dict[str, Any], name: str) -> list[str]:
    return [key for key in checkpoint["state_dict"] if key.startswith(f"{name}.")]
