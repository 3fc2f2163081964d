"""docs/faults.md says what the table says."""

from ._document import page
from ._run import ROOT
from ._table import SECTIONS

FILE = ROOT / "docs" / "faults.md"


def test_the_page_is_that_of_the_table(pytestconfig):
    if pytestconfig.getoption("--write-table", default=False):
        FILE.write_text(page(SECTIONS), encoding="utf-8")
    assert FILE.read_text(encoding="utf-8") == page(SECTIONS), "run `pytest tests/faults --write-table`"
