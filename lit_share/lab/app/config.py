"""The config of `train.py`: its types, and how it is completed before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lit_share.lab.app._check import ConfigError, check_config, paths_of
from lit_share.lab.app._provenance import provenance
from lit_share.lab.app._strength import strength_node, way_of
from lit_share.lab.results import RESULT_FILE, Result
from lit_share.lab.sweeps import group_of
from lit_share.text import suggest


class Mode(Enum):
    """Whether the objective is minimised or maximised."""

    min = "min"
    max = "max"


class When(Enum):
    """When there is a second phase of training."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass
class RetrainSchema:
    """The second phase, which trains tied rows without the penalty."""

    when: When = When.auto
    similarity: float = 0.7
    max_epochs: int | None = None
    lr: float | None = None


@dataclass
class TrainSchema:
    """The types of the top-level keys; `conf/train.yaml` says what they mean."""

    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    ties: dict[str, Any] = field(default_factory=dict)
    align: dict[str, Any] = field(default_factory=dict)
    regularizer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    strength: Any = None
    objective: str = "val/loss"
    mode: Mode = Mode.min
    tune: list[str] = field(default_factory=list)
    threads: int | None = None
    retrain: RetrainSchema = field(default_factory=RetrainSchema)
    ckpt_path: str | None = None
    dry_run: bool = False


CONFIG_FILE = "config.yaml"
# The keys that recipes read.
_TIES = ("patterns", "exclude", "types", "min_ndim")
GROUPS = ("model", "data", "ties", "align", "regularizer", "callbacks", "logger", "trainer")


def register_schema() -> None:
    """Register `train_schema` with Hydra."""
    ConfigStore.instance().store("train_schema", TrainSchema)


def prepare(config: DictConfig) -> DictConfig:
    """Check a composed config and complete it.

    ``strength`` is copied to every regularizer that has a strength. W&B gets the multirun as group,
    the strategy as job type, and the choices for config groups as tags.

    Args:
        config: The config that Hydra composed.

    Returns:
        A resolved copy of plain values.

    Raises:
        ConfigError: If a key, group or value is unknown or of the wrong type; see `check_config`.
    """
    ties: Any = OmegaConf.to_container(config).get("ties")  # type: ignore[union-attr]
    if isinstance(ties, dict) and ties.get("patterns") is None:
        raise ConfigError(
            "ties.patterns: name what is tied, whatever the strategy:"
            " ties.patterns=[a.net.*,b.net.*]"
        )
    if isinstance(ties, dict):
        for key in ties.keys() - set(_TIES):
            raise ConfigError(f"ties.{key}: unknown key{suggest(key, _TIES)}")
    values = [entry.name for entry in fields(TrainSchema) if entry.name not in GROUPS]
    check_config(config, GROUPS, values)
    prepared = OmegaConf.create(OmegaConf.to_container(config, resolve=True, enum_to_str=True))
    assert isinstance(prepared, DictConfig)
    for group in ("align", "regularizer", "callbacks", "logger"):
        # An override such as `callbacks.progress=null` removes a node.
        prepared[group] = {name: node for name, node in prepared[group].items() if node is not None}
        for name, node in prepared[group].items():
            if not isinstance(node, DictConfig):
                raise ConfigError(
                    f"{group}.{name}: expected a mapping with a _target_, got {node!r}"
                )
    asks_for_bar = any(o.lstrip("+").startswith("callbacks.progress") for o in _overrides())
    if sweep_name() is not None and not asks_for_bar:
        # The sweeper says how many cells are done; bars of each cell would hide that.
        prepared.callbacks.pop("progress", None)
    for regularizer in prepared.regularizer.values():
        if "strength" in regularizer and prepared.strength is not None:
            regularizer.strength = strength_node(prepared.strength, prepared)
    _check_mode(prepared.objective, prepared.mode)
    _check_tuned(prepared.tune, config)
    if not 0.0 < prepared.retrain.similarity <= 1.0:
        raise ConfigError(
            f"retrain.similarity={prepared.retrain.similarity}: write a number in (0, 1]"
        )
    if prepared.retrain.lr is not None and not 0.0 < prepared.retrain.lr < math.inf:
        raise ConfigError(f"retrain.lr={prepared.retrain.lr}: write a positive number")
    for key, value, least in (
        ("retrain.max_epochs", prepared.retrain.max_epochs, 0),
        ("threads", prepared.threads, 1),
        ("seed", prepared.seed, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{key}={value}: write a whole number of at least {least}")
    wandb = prepared.logger.get("wandb")
    if wandb is not None:
        chosen = {group: choice(group) for group in ("data", "model", "ties", "experiment")}
        tags = [f"{group}={name}" for group, name in chosen.items() if name]
        with open_dict(wandb):
            wandb.job_type = wandb.get("job_type") or strategy(prepared)
            wandb.group = wandb.get("group") or sweep_name()
            wandb.tags = [*(wandb.get("tags") or ()), *tags]
    return prepared


def _check_mode(objective: str, mode: str) -> None:
    # The opposite mistake has no such list: most other metrics may be either.
    small = {"loss", "error", "mse", "mae", "rmse", "nll", "perplexity"}
    if mode == "max" and not small.isdisjoint(re.split(r"[^a-z]+", objective.lower())):
        raise ConfigError(
            f"objective={objective} mode=max would choose the worst checkpoint: write mode=min"
        )


def _check_tuned(keys: Collection[str], config: DictConfig) -> None:
    if not keys:
        return
    # This import takes half a second, which runs without `tune` need not wait for.
    from lit_share.lab.report import not_to_be_tuned

    known = paths_of(config)
    for key in keys:
        if problem := not_to_be_tuned(key):
            raise ConfigError(problem)
        if key not in known:
            raise ConfigError(f"tune: there is no key {key!r} in the config{suggest(key, known)}")


def unfinished_result(config: DictConfig, overrides: Sequence[str], output_dir: Path) -> Result:
    """Return the result of a run that has failed before training."""
    return Result(
        path=output_dir / RESULT_FILE,
        schema=1,
        status="failed",
        strategy=strategy(config),
        seed=config.seed,
        objective=config.objective,
        # Before `prepare` the mode is an enum, afterwards a string.
        mode=Mode[str(getattr(config.mode, "name", config.mode))].value,
        data=choice("data"),
        ties=choice("ties"),
        model=choice("model"),
        tune=list(config.tune),
        overrides=list(overrides),
        **provenance(),
    )


def strategy(config: DictConfig) -> str:
    """Return the name of a strategy: its config, or its regularizers; ``"none"`` without.

    A config of another name than its regularizers, as ``found_groups``, gives its name, unless
    overrides add or remove regularizers.
    Strengths that are found in training make another strategy, as ``"soft_tie learned"``.
    """
    name = "+".join(map(str, config.regularizer)) or "none"
    chosen = choice("regularizer")
    if name != "none" and chosen is not None and chosen.isidentifier() and not _changes_group():
        name = chosen
    return f"{name} {way_of(config)}".strip()


def _changes_group() -> bool:
    """Whether overrides add, replace or remove whole regularizers, rather than keys of one."""
    keys = [override.partition("=")[0].strip("+~") for override in _overrides()]
    return any(key.startswith("regularizer.") and key.count(".") == 1 for key in keys)


def _overrides() -> list[str]:
    if not HydraConfig.initialized():
        return []
    return list(HydraConfig.get().overrides.task)


def strength(config: DictConfig) -> float | None:
    """Return the strength of all regularizers that have one; ``None`` if there is no such number.

    Strategies like hard sharing have none, a sum of penalties may have several, and some strengths
    are found in training.
    """
    strengths = [r.strength for r in config.regularizer.values() if "strength" in r]
    if not strengths or way_of(config) or len(set(strengths)) > 1:
        return None
    return float(strengths[0])


def choice(group: str) -> str | None:
    """Return the name of the config that was chosen for a group."""
    if not HydraConfig.initialized():
        return None
    chosen = HydraConfig.get().runtime.choices.get(group)
    if chosen is None:
        return None
    return str(chosen)


def sweep_name() -> str | None:
    """Return the name of the multirun that this run is a cell of."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return group_of(Path(HydraConfig.get().sweep.dir))
    return None
