"""Penalties on the parameters of modules, without Lightning."""

from lit_share.penalties._checks import DivergedError
from lit_share.penalties._fisher import Per, fisher
from lit_share.penalties._functions import add_penalty_gradient, apply_prox, starting_values
from lit_share.penalties._learned import Learned, LearnedStrengths
from lit_share.penalties._optimizers import find_unowned, register_after_step
from lit_share.penalties._path import Path
from lit_share.penalties._penalty_steps import Apply, Every, PenaltySteps
from lit_share.penalties._precision import Precision, second_moments
from lit_share.penalties._ramp import Ramp, Schedule
from lit_share.penalties._recipes import RECIPES, Recipe, as_penalty

__all__ = [
    "RECIPES",
    "Apply",
    "DivergedError",
    "Every",
    "Learned",
    "LearnedStrengths",
    "Path",
    "PenaltySteps",
    "Per",
    "Precision",
    "Ramp",
    "Recipe",
    "Schedule",
    "add_penalty_gradient",
    "apply_prox",
    "as_penalty",
    "find_unowned",
    "fisher",
    "register_after_step",
    "second_moments",
    "starting_values",
]
