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

# The lowest folder comes first, so that looking a name up imports no folder above its own.
_PACKAGES = (
    "functional",
    "ties",
    "aliases",
    "penalties",
    "codebooks",
    "local",
    "sharing",
    "alignment",
    "metrics",
    "callbacks",
    "paired",
    # Nothing above imports it, and pydantic takes as long as the rest of the package.
    "compact_files",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for package in _PACKAGES:
            module = import_module(f"{__name__}.{package}")
            if name in module.__all__:
                if package == "callbacks":
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
