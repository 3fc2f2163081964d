import warnings

import pytest


@pytest.fixture(autouse=True)
def _quieter(quiet):
    # Most tests need no validation.
    warnings.filterwarnings("ignore", message=".*Skipping val loop.*")


@pytest.fixture(autouse=True)
def _own_folder(own_folder):
    """For all tests here."""
