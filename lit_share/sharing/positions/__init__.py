"""Locally connected layers, and what becomes of them when their positions are shared: convolutions."""

from lit_share.sharing.positions._layers import LocallyConnected1d, LocallyConnected2d

__all__ = ["LocallyConnected1d", "LocallyConnected2d"]
