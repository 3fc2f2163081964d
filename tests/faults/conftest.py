"""What the rows of the table need, and `--write-table`, which writes docs/faults.md anew."""

import pytest

from ._quiet import ignore_warnings_of_others


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/faults.md from the table of tests/faults")


@pytest.fixture(autouse=True)
def _quiet():
    ignore_warnings_of_others()


@pytest.fixture(autouse=True)
def _own_folder(own_folder):
    """For all tests here."""
