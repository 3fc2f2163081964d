"""Add `regularizer=soft_tie` and all other recipes to every Hydra application.

Hydra imports every plugin whenever it starts, so nothing heavy may be imported here.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class StrategySearchPath(SearchPathPlugin):
    """Appends the recipes of `lit_share.conf`: an application's own configs win over them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them."""
        search_path.append(provider="lit_share", path="pkg://lit_share.conf")
