"""A Hydra plugin that adds `regularizer=soft_tie` and all other recipes to any application."""

# Hydra imports all plugins whenever it starts, so this file must not import anything heavy.

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class StrategySearchPath(SearchPathPlugin):
    """Add the configs of `lit_share.conf`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the recipes."""
        # Hydra takes the first config of a name, so an application's own configs win.
        search_path.append(provider="lit_share", path="pkg://lit_share.conf")
