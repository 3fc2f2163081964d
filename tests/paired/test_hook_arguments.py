"""The table of Lightning's hooks."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from lit_share.lightnings import PACKAGES
from lit_share.paired._hook_arguments import HOOK_ARGUMENTS


@pytest.mark.parametrize("package", PACKAGES)
def test_hooks_are_those_of_lightning(package):
    hooks = import_module(f"{package}.core.hooks")
    names = [*vars(hooks.ModelHooks), *vars(hooks.DataHooks)]
    names += ["configure_gradient_clipping", "optimizer_zero_grad"]
    module = import_module(package).LightningModule
    assert {
        hook: [*inspect.signature(getattr(module, hook)).parameters][1:]
        for hook in names
        if not hook.startswith("_")
    } == HOOK_ARGUMENTS
