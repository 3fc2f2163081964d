import warnings

import pytest


@pytest.fixture(autouse=True)
def _quieter(quiet):
    # Checkpoints of another run in the same folder.
    warnings.filterwarnings(
        "ignore", message=".*callbacks used to create the checkpoint need to be provided.*"
    )


@pytest.fixture(autouse=True)
def _own_folder(own_folder):
    """For all tests here."""
