"""Functions of Lightning, from the package that is in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lit_share.lightnings._packages import imported_module, module_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.utilities import CombinedLoader


def is_overridden(hook: str, module: LightningModule | LightningDataModule) -> bool:
    """Whether a module or datamodule has its own implementation of a hook."""
    found: bool = module_of(module, "utilities.model_helpers").is_overridden(hook, module)
    return found


def is_param_in_hook_signature(
    hook: Callable[..., Any], parameter: str, explicit: bool = False, min_args: int | None = None
) -> bool:
    """Whether a hook takes an argument, as Lightning finds out."""
    package = imported_module("utilities.signature_utils")
    found: bool = package.is_param_in_hook_signature(hook, parameter, explicit, min_args)
    return found


def combined_loader(loaders: Any, mode: str) -> CombinedLoader:
    """Return a `CombinedLoader` of any loaders."""
    package = imported_module("utilities.combined_loader")
    made: CombinedLoader = package.CombinedLoader(loaders, mode)
    return made
