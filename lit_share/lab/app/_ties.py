"""The ties of a config."""

from __future__ import annotations

from omegaconf import DictConfig

from lit_share.ties import Ties


def ties_of(config: DictConfig) -> Ties:
    """Return the ties that a prepared config's group ``ties`` names, as recipes read them.

    Raises:
        TieError: If a pattern or another key has a wrong value; see `Ties`.
    """
    node = config.ties
    return Ties(
        node.patterns,
        exclude=node.get("exclude") or [],
        types=node.get("types") or [],
        min_ndim=node.get("min_ndim", 0),
    )
