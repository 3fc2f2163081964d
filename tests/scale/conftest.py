"""For all tests here."""

import pytest


@pytest.fixture(autouse=True)
def _lightning(own_folder, quiet):
    """Nothing is left behind."""
