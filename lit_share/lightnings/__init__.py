"""Lightning under both of its names: `lightning.pytorch` and `pytorch_lightning`.

They are one code in two packages, so that no class of one is a class of the other. What works with
both imports neither by name: it takes what it needs from the package of a Trainer or module, or
from one that the user has imported.
"""

from lit_share.lightnings._callback import Callback, join_imported
from lit_share.lightnings._module import SeveralDataModules, SeveralModules, common_package
from lit_share.lightnings._packages import (
    PACKAGES,
    fabric_module,
    imported_module,
    imported_package,
    is_a,
    is_module,
    module_of,
    package_of,
)
from lit_share.lightnings._utilities import (
    combined_loader,
    is_overridden,
    is_param_in_hook_signature,
)

__all__ = [
    "PACKAGES",
    "Callback",
    "SeveralDataModules",
    "SeveralModules",
    "combined_loader",
    "common_package",
    "fabric_module",
    "imported_module",
    "imported_package",
    "is_a",
    "is_module",
    "is_overridden",
    "is_param_in_hook_signature",
    "join_imported",
    "module_of",
    "package_of",
]
