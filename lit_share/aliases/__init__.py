"""Aliases: finding, making and keeping one parameter under several names of a module."""

from lit_share.aliases._calls import Inputs, arguments, evaluating, restored
from lit_share.aliases._data import aliases_from_data, aliases_to_data
from lit_share.aliases._find import agree, alias_groups, transposed_aliases
from lit_share.aliases._invariant import forget_alias, install_invariant, verify_shared
from lit_share.aliases._make import AliasMaker, make_buffer_one
from lit_share.aliases._modules import has_hooks, parents_of, replace_module, shared_with
from lit_share.aliases._separate import (
    aliases_that_agree,
    keep_aliases,
    separate_buffers,
    separate_parameters,
)
from lit_share.aliases._shareable import check_buffers, check_shareable

__all__ = [
    "AliasMaker",
    "Inputs",
    "agree",
    "alias_groups",
    "aliases_from_data",
    "aliases_that_agree",
    "aliases_to_data",
    "arguments",
    "check_buffers",
    "check_shareable",
    "evaluating",
    "forget_alias",
    "has_hooks",
    "install_invariant",
    "keep_aliases",
    "make_buffer_one",
    "parents_of",
    "replace_module",
    "restored",
    "separate_buffers",
    "separate_parameters",
    "shared_with",
    "transposed_aliases",
    "verify_shared",
]
