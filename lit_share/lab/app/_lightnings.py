"""Configs name classes of `lightning.pytorch`; models may be of `pytorch_lightning`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from omegaconf import DictConfig, OmegaConf

from lit_share.lightnings import PACKAGES, package_of


def in_package(node: DictConfig, package: str) -> DictConfig:
    """Return a config whose Lightning targets are those of a package.

    Both packages have the same classes, and a model works with those of its own package only, so
    that one config serves the models of both.

    Args:
        node: A resolved config.
        package: One of `lit_share.lightnings.PACKAGES`.

    Example:
        >>> node = OmegaConf.create({"_target_": "lightning.pytorch.Trainer", "max_epochs": 3})
        >>> in_package(node, "pytorch_lightning")
        {'_target_': 'pytorch_lightning.Trainer', 'max_epochs': 3}
    """
    translated = OmegaConf.create(_translated(OmegaConf.to_container(node), package))
    assert isinstance(translated, DictConfig)
    return translated


def check_package(model: LightningModule, other: object, key: str, node: DictConfig) -> None:
    """Raise `TypeError` if an object of the config is of another Lightning than the model."""
    own, package = package_of(model), package_of(other)
    if own is None or package is None or own == package:
        return
    raise TypeError(
        f"{key}: {node.get('_target_')} is of {package}, but the model is of {own}, and no Trainer "
        f"takes both: write {key}._target_= with a subclass of {own}.{_BASES[key]}, or a model of "
        f"{package}"
    )


_CHECKPOINT = "lit_share.lab.checkpoints.Checkpoint"
_BASES = {"data": "LightningDataModule", "trainer": "Trainer"}


def _translated(raw: Any, package: str) -> Any:
    if isinstance(raw, list):
        return [_translated(value, package) for value in raw]
    if not isinstance(raw, dict):
        return raw
    translated = {key: _translated(value, package) for key, value in raw.items()}
    target = translated.get("_target_")
    for known in PACKAGES:
        if isinstance(target, str) and target.startswith(f"{known}."):
            translated["_target_"] = f"{package}{target.removeprefix(known)}"
    if target == _CHECKPOINT and package == "pytorch_lightning":
        translated["_target_"] = _CHECKPOINT.replace("Checkpoint", "PytorchLightningCheckpoint")
    return translated
