"""Locally connected layers: convolutions that do not share filters between positions."""

from lit_share.local._layers import LocallyConnected1d, LocallyConnected2d
from lit_share.local._operation import locally_connected, output_size

__all__ = ["LocallyConnected1d", "LocallyConnected2d", "locally_connected", "output_size"]
