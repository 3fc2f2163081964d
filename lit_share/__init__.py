"""Parameter tying and parameter sharing for PyTorch Lightning.

Names are imported on first use, so that the algebra (`lit_share.functional`) and the tying of plain
modules (`lit_share.sharing`) need neither Lightning nor Hydra nor W&B.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Type checkers do not follow `__getattr__`, so they read the names from these imports.
if TYPE_CHECKING:
    __version__: str

    from lit_share.aliases import verify_shared
    from lit_share.alignment import AlignError, AlignReport, align, compact, repair
    from lit_share.callbacks import (
        Align,
        KeepRandomState,
        Regularize,
        Share,
        SharingMonitor,
        TieRows,
    )
    from lit_share.codebooks import (
        CodebookConv2d,
        CodebookLinear,
        RowReport,
        densify,
        tie_rows,
    )
    from lit_share.compact_files import CompactFileError, load_compact, save_compact
    from lit_share.functional import OwlWeights, Penalty, owl_weights, prox_owl
    from lit_share.local import LocallyConnected1d, LocallyConnected2d
    from lit_share.metrics import (
        SharingStats,
        overall_distance,
        relative_distance,
        sharing_stats,
    )
    from lit_share.paired import Paired, PairedData
    from lit_share.penalties import (
        RECIPES,
        Learned,
        Path,
        PenaltySteps,
        Ramp,
        Recipe,
        add_penalty_gradient,
        apply_prox,
        fisher,
        second_moments,
        starting_values,
    )
    from lit_share.sharing import share, unique_parameters, unshare
    from lit_share.ties import ClusterReport, Tie, TieError, Ties, clusters, same_start

__all__ = [
    "RECIPES",
    "Align",
    "AlignError",
    "AlignReport",
    "ClusterReport",
    "CodebookConv2d",
    "CodebookLinear",
    "CompactFileError",
    "KeepRandomState",
    "Learned",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "OwlWeights",
    "Paired",
    "PairedData",
    "Path",
    "Penalty",
    "PenaltySteps",
    "Ramp",
    "Recipe",
    "Regularize",
    "RowReport",
    "Share",
    "SharingMonitor",
    "SharingStats",
    "Tie",
    "TieError",
    "TieRows",
    "Ties",
    "add_penalty_gradient",
    "align",
    "apply_prox",
    "clusters",
    "compact",
    "densify",
    "fisher",
    "load_compact",
    "overall_distance",
    "owl_weights",
    "prox_owl",
    "relative_distance",
    "repair",
    "same_start",
    "save_compact",
    "second_moments",
    "share",
    "sharing_stats",
    "starting_values",
    "tie_rows",
    "unique_parameters",
    "unshare",
    "verify_shared",
]

# The folder of each name, so that looking it up imports no other.
_FOLDERS = {
    "functional": ("OwlWeights", "Penalty", "owl_weights", "prox_owl"),
    "ties": ("ClusterReport", "Tie", "TieError", "Ties", "clusters", "same_start"),
    "aliases": ("verify_shared",),
    "penalties": (
        *("RECIPES", "Learned", "Path", "PenaltySteps", "Ramp", "Recipe", "add_penalty_gradient"),
        *("apply_prox", "fisher", "second_moments", "starting_values"),
    ),
    "codebooks": ("CodebookConv2d", "CodebookLinear", "RowReport", "densify", "tie_rows"),
    "local": ("LocallyConnected1d", "LocallyConnected2d"),
    "sharing": ("share", "unique_parameters", "unshare"),
    "alignment": ("AlignError", "AlignReport", "align", "compact", "repair"),
    "metrics": ("SharingStats", "overall_distance", "relative_distance", "sharing_stats"),
    "callbacks": (
        *("Align", "KeepRandomState", "Regularize", "Share", "SharingMonitor", "TieRows"),
    ),
    "paired": ("Paired", "PairedData"),
    "compact_files": ("CompactFileError", "load_compact", "save_compact"),
}
_FOLDER_OF = {name: folder for folder, names in _FOLDERS.items() for name in names}


def __getattr__(name: str) -> Any:
    folder = _FOLDER_OF.get(name)
    if folder is not None:
        module = import_module(f"{__name__}.{folder}")
        if folder == "callbacks":
            # LightningCLI compares classes, and may be imported after this package.
            import_module(f"{__name__}.lightnings").join_imported()
        return getattr(module, name)
    if name == "__version__":
        # This import takes longer than the rest of the module.
        from importlib.metadata import version

        return version("lit-share")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
