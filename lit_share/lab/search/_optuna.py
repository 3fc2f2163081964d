"""Import Optuna, which is an extra."""

from __future__ import annotations

from types import ModuleType


def load_optuna() -> ModuleType:
    """Import Optuna, and let it log warnings only.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "hydra/sweeper=optuna needs Optuna, which is not installed: "
            'pip install "lit-share[search]", or leave it out and list the values to try'
        ) from error
    # It would log each study and trial, which are built anew for each question.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module: ModuleType = optuna
    return module
