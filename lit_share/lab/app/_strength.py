"""The strength of a config: a number, or how one is found in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from lit_share.lab.app._check import ConfigError
from lit_share.text import suggest

# The class of this package that `strength=<name>` stands for.
WAYS = {"learned": "Learned", "path": "Path"}


def strength_node(strength: Any, config: DictConfig) -> Any:
    """Return the node of a regularizer's strength, given the top-level key.

    Args:
        strength: A number, the name of one of `WAYS`, or a mapping from the name to keywords, as
            ``{learned: {start: 0.01}}``.
        config: The config, whose objective is the score of a path.

    Raises:
        ConfigError: If it is none of these, or the keywords are wrong.
    """
    if isinstance(strength, (int, float)) and not isinstance(strength, bool):
        return float(strength)
    name = strength
    keywords: Any = {}
    # Hydra's grammar has no calls with keywords, but mappings.
    if isinstance(strength, Mapping) and len(strength) == 1:
        ((name, keywords),) = strength.items()
    if name not in WAYS or not isinstance(keywords, Mapping):
        raise ConfigError(
            f"strength={strength}: write a number, {' or '.join(WAYS)}, or such a name with "
            f"keywords, as strength={{learned:{{start:0.01}}}}{suggest(str(name), WAYS)}"
        )
    # It takes seconds, which `--help` saves.
    from lit_share import penalties

    try:
        if name == "path":
            keywords = _of_path(keywords, config)
        getattr(penalties, WAYS[name])(**keywords)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"strength: {error}") from None
    return {"_target_": f"lit_share.{WAYS[name]}", **keywords}


def _of_path(keywords: Mapping[str, Any], config: DictConfig) -> dict[str, Any]:
    """Return the keywords of a path; knot 0 gets the epochs that the other knots leave over.

    Raises:
        ConfigError: If the knots have not as many epochs as the Trainer.
    """
    from lit_share.penalties import Path

    given = dict(keywords)
    # Grids choose by the objective, too.
    if not {"monitor", "loss"} & given.keys():
        given |= {"monitor": config.objective, "mode": config.mode}
    path, epochs = Path(**given), config.trainer.get("max_epochs")
    # Knot 0 starts from untrained weights, so it can make use of more epochs than the others.
    if "first" not in given and isinstance(epochs, int):
        first = epochs - path.steps * path.epochs
        if first < 1:
            raise ConfigError(
                f"strength: a path of {path.steps} strengths with {path.epochs} epochs each leaves "
                f"none of trainer.max_epochs={epochs} for models without a penalty: write more "
                f"than {epochs - first}"
            )
        path, given = Path(**given, first=first), {**given, "first": first}
    if path.max_epochs != epochs:
        raise ConfigError(f"strength: the path needs trainer.max_epochs={path.max_epochs}")
    return given


def way_of(config: DictConfig) -> str:
    """Return the name of the way in which the regularizers' strengths are found; "" if given."""
    targets = {f"lit_share.{way}": name for name, way in WAYS.items()}
    for node in config.regularizer.values():
        strength = node.get("strength")
        if isinstance(strength, Mapping) and strength.get("_target_") in targets:
            return targets[strength["_target_"]]
    return ""
