"""docs/faults.md says what the table says."""

from ._document import page
from ._table import SECTIONS


def test_the_page_is_that_of_the_table(up_to_date):
    up_to_date("faults.md", page(SECTIONS))
