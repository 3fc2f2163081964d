"""Refuse recipes that no code of a Hydra application would read."""

# Hydra imports all plugins whenever it starts, so this file must not import anything heavy.

from __future__ import annotations

import logging
import sys
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

GROUPS = ("align", "regularizer")
# Where the groups of `lit_share.conf` are put, by the headers of their files.
PACKAGE = "callbacks"
_TARGETS = ("lit_share.Align", "lit_share.Regularize", "lit_share.Share")


class RefuseUnread(Callback):
    """End a job whose recipes would have no effect, before it starts where that is known.

    Recipes go to ``callbacks``, as most applications instantiate these. If the application's own
    config has no callbacks, nobody is known to read them, so the job ends with a message, unless
    the command line or the defaults list says where they belong: ``+regularizer@callbacks=l2``.
    After a job that has made no callback of any recipe, an error is logged.
    """

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """End the process if recipes are the only callbacks, and were not put there explicitly."""
        if len(_recipes(config, PACKAGE)) < _count(config, PACKAGE):
            return
        # Several choices of a group are among the overrides only.
        given = (text.lstrip("+").partition("=") for text in config.hydra.overrides.task)
        chosen = {**config.hydra.runtime.choices, **{key: value for key, _, value in given}}
        for group in GROUPS:
            # An explicit package is part of the key, unless it has the group's name.
            name = chosen.get(group)
            if name in (None, "none") or _recipes(config, group):
                continue
            # Hydra turns exceptions of its callbacks into warnings.
            raise SystemExit(
                f"{group}={name} adds to the config's {PACKAGE}, of which this application has no "
                "others and which it may not instantiate: if it does, write "
                f"+{group}@{PACKAGE}={name}; if it instantiates the values of another key, "
                f"+{group}@KEY={name}"
            )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Log an error if the job has ended without a callback."""
        unread = [name for key in config if key != "hydra" for name in _recipes(config, str(key))]
        is_made = "lit_share.callbacks" in sys.modules
        if unread and not is_made and job_return.status is JobStatus.COMPLETED:
            log.error(
                "%s had no effect, as the application has instantiated no callback of lit_share",
                " and ".join(unread),
            )


def _count(config: DictConfig, key: str) -> int:
    node = OmegaConf.select(config, key)
    return len(node) if OmegaConf.is_config(node) else 0


def _recipes(config: DictConfig, key: str) -> list[str]:
    """Return the names of the recipes under a key of the config."""
    nodes = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    if not isinstance(nodes, DictConfig):
        return []
    found = {
        str(name): node for name, node in nodes.items_ex(resolve=False) if OmegaConf.is_dict(node)
    }
    return [f"{key}.{name}" for name, node in found.items() if node.get("_target_") in _TARGETS]


def _register() -> None:
    """Add the callback to Hydra's own config, as Hydra knows no other way without the user's."""
    store = ConfigStore.instance()
    node = store.load("hydra/config.yaml").node
    node.callbacks["lit_share"] = {"_target_": f"{__name__}.{RefuseUnread.__name__}"}
    store.store(group="hydra", name="config", node=node, provider="hydra")


_register()
