"""Searches: Optuna chooses strengths and other values by their scores on validation data.

A search consists of studies: one for each strategy, seed and other setting. The results of its
cells are the only record of a study, which is built from them whenever Optuna is asked.
"""

from lit_share.lab.search._course import COURSE_FILE, Course
from lit_share.lab.search._note import NoteCourse
from lit_share.lab.search._optuna import load_optuna
from lit_share.lab.search._prune import Prune
from lit_share.lab.search._space import (
    Choices,
    Range,
    Space,
    refuse_range_in_list,
    searched,
    split_by_way,
)
from lit_share.lab.search._study import Study
from lit_share.lab.search._trial import Trial, trials_of

__all__ = [
    "COURSE_FILE",
    "Choices",
    "Course",
    "NoteCourse",
    "Prune",
    "Range",
    "Space",
    "Study",
    "Trial",
    "load_optuna",
    "refuse_range_in_list",
    "searched",
    "split_by_way",
    "trials_of",
]
