"""Penalties, hard sharing and its metrics in `transformers.Trainer`; files of shared models."""

from lit_share.huggingface._files import from_pretrained, save_pretrained
from lit_share.huggingface._monitor import SharingMonitor
from lit_share.huggingface._regularize import Regularize
from lit_share.huggingface._share import Share

__all__ = ["Regularize", "Share", "SharingMonitor", "from_pretrained", "save_pretrained"]
