import warnings

import pytest


@pytest.fixture(autouse=True)
def _quiet():
    # Lightning's advice on speed, which depends on the number of cores.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 builds its CombinedLoader with a class that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
    # Checkpoints of another run in the same folder.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")


@pytest.fixture(autouse=True)
def _own_folder(own_folder):
    """For all tests here."""
