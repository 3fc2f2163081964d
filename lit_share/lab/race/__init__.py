"""Races: which layers should be tied? Short trials untie one layer after the other."""

from lit_share.lab.race._layers import layers_of
from lit_share.lab.race._pause import Pause
from lit_share.lab.race._race import Race, Standing, Step
from lit_share.lab.race._tried import Tried, tried_in

__all__ = ["Pause", "Race", "Standing", "Step", "Tried", "layers_of", "tried_in"]
