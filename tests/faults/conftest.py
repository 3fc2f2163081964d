"""What the rows of the table need."""

import pytest


@pytest.fixture(autouse=True)
def _lightning(own_folder, quiet):
    """For all tests here."""
