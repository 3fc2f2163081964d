import warnings

import pytest


@pytest.fixture(autouse=True)
def _quieter(quiet):
    # What some of the modules do on purpose.
    warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")


@pytest.fixture(autouse=True)
def _own_folder(own_folder):
    """For all tests here."""
