"""Data for related models (several domains, or several tasks), and placed images for one."""

from lit_share.lab.data._diabetes import Diabetes
from lit_share.lab.data._domains import DOMAINS, Domain
from lit_share.lab.data._many_domains import ManyDomains
from lit_share.lab.data._many_tables import ManyTables, Table
from lit_share.lab.data._paired_domains import PairedDomains
from lit_share.lab.data._placed_images import PlacedImages, placed
from lit_share.lab.data._related_outputs import RelatedOutputs
from lit_share.lab.data._sources import (
    SOURCES,
    Arrays,
    Source,
    breast_cancer,
    digits,
    fashion_mnist,
    mnist,
    standardised,
    wine,
)
from lit_share.lab.data._table_files import TableFiles
from lit_share.lab.data._tasks import TASKS, Task
from lit_share.lab.data._views import ManyViews

__all__ = [
    "DOMAINS",
    "SOURCES",
    "TASKS",
    "Arrays",
    "Diabetes",
    "Domain",
    "ManyDomains",
    "ManyTables",
    "ManyViews",
    "PairedDomains",
    "PlacedImages",
    "RelatedOutputs",
    "Source",
    "Table",
    "TableFiles",
    "Task",
    "breast_cancer",
    "digits",
    "fashion_mnist",
    "mnist",
    "placed",
    "standardised",
    "wine",
]
