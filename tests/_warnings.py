"""Warnings of other libraries that are ignored; all others are errors, in subprocesses too."""

from __future__ import annotations

import warnings


def ignore_warnings_of_others():
    # Lightning's advice on speed, which depends on the number of cores.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 builds its CombinedLoader with a class that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
    # torch, when Lightning initialises sharded parameters on a CPU.
    warnings.filterwarnings(
        "ignore", message="DTensor random operators may not have complete support on cpu.*"
    )
    # Of a trainer without a logger.
    warnings.filterwarnings("ignore", message=".*tensorboardX. has been removed.*")
