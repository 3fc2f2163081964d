"""Makes `regularizer=soft_tie` known to every Hydra application of an environment in which lit_share is installed.

Hydra imports every plugin whenever it starts, so nothing heavy may be imported here.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class StrategySearchPath(SearchPathPlugin):
    """Adds the recipes of `lit_share.conf`, after the application's own configs, which win where names are equal."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them."""
        search_path.append(provider="lit_share", path="pkg://lit_share.conf")
