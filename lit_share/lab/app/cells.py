"""Find what is wrong with the cells of a sweep before the first one trains."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from lit_share.lab.errors import one_line
from lit_share.lab.sweeps import Cell, Composer, fingerprint


@dataclass
class CheckedCells:
    """Cells that were composed.

    Attributes:
        prints: The fingerprint of each cell's config, without cells that cannot be composed.
        problems: For each problem, the cells that have it.
        missing: For each thing that is missing on this machine, the cells that need it.
    """

    prints: dict[Cell, str] = field(default_factory=dict)
    problems: dict[str, list[Cell]] = field(default_factory=dict)
    missing: dict[str, list[Cell]] = field(default_factory=dict)


def check_cells(
    cells: Iterable[Cell], composer: Composer, directory: Path, look_around: bool = False
) -> CheckedCells:
    """Compose all cells and collect what is wrong with them, without training anything.

    Configs are checked as `prepare` does, and regularizers are built, which parses patterns and
    checks strengths. In applications that do not use `register_schema`, cells are only composed.

    Args:
        cells: The overrides of each cell.
        composer: Composes them.
        directory: The sweep's directory, which need not exist.
        look_around: Whether to find what is missing on this machine, too: packages, files and
            devices. Data modules of this package are built, which loads no data.
    """
    checked = CheckedCells()
    is_ours = "train_schema.yaml" in ConfigStore.instance().repo
    # Configs that differ in seed and strength only have the same problems, but for what their
    # regularizers say of the strength. To check each of 500 would take 20 seconds.
    seen: dict[str, _Checked] = {}
    built: dict[tuple[str, str], str | None] = {}
    for cell in cells:
        try:
            config, hydra = composer.compose(cell), composer.hydra_of(cell)
        except HydraException as error:
            checked.problems.setdefault(_reason(error), []).append(cell)
            continue
        checked.prints[cell] = fingerprint(config)
        if not is_ours:
            continue
        key, strength = _without_numbers(config), str(config.strength)
        if key not in seen:
            with _as_in_a_cell(hydra, directory):
                seen[key] = _check(config, look_around)
        found = seen[key]
        if (key, strength) not in built:
            problem = found.problem
            if found.prepared is not None:
                problem = _check_strength(found.prepared, config.strength)
            built[key, strength] = problem
        problem = built[key, strength]
        if problem is not None:
            checked.problems.setdefault(problem, []).append(cell)
        for text in found.missing:
            checked.missing.setdefault(text, []).append(cell)
    return checked


@dataclass(frozen=True)
class _Checked:
    problem: str | None
    prepared: DictConfig | None = None
    missing: tuple[str, ...] = ()


def _check(config: DictConfig, look_around: bool) -> _Checked:
    # These imports take seconds, which a process that only starts cells elsewhere saves.
    from hydra.utils import instantiate

    from lit_share.lab.app._ties import ties_of
    from lit_share.lab.app.config import prepare

    where = ""
    try:
        prepared = prepare(config)
        ties_of(prepared)
        for name, node in prepared.align.items():
            where = f"align.{name}: "
            instantiate(node, _convert_="all")
    # Classes of the user may raise anything.
    except Exception as error:
        return _Checked(f"{where}{_reason(error)}")
    if look_around:
        return _Checked(None, prepared, tuple(_missing(prepared)))
    return _Checked(None, prepared)


def _check_strength(prepared: DictConfig, strength: Any) -> str | None:
    """Build the regularizers with a strength, and return what is wrong with one of them."""
    from hydra.utils import instantiate

    from lit_share.lab.app._strength import strength_node

    for name, node in prepared.regularizer.items():
        options: dict[str, Any] = {}
        try:
            if strength is not None and "strength" in node:
                # Ways of finding one become nodes, as in `prepare`.
                options["strength"] = strength_node(strength, prepared)
            instantiate(node, _convert_="all", **options)
        # As above, classes of the user may raise anything.
        except Exception as error:
            return f"regularizer.{name}: {_reason(error)}"
    return None


def _missing(config: DictConfig) -> Iterator[str]:
    """Yield what a prepared config needs that is not on this machine."""
    import torch

    from lit_share.lab.data import SOURCES

    node = config.data
    # Other constructors may load or download what they need.
    if str(node.get("_target_", "")).startswith("lit_share."):
        yield from _problem_of(node, "data")
        source = SOURCES.get(str(node.get("dataset")))
        if source is not None and (missing := source.missing()):
            yield f"data.dataset={node.dataset}: {missing}"
    for name, logger in config.logger.items():
        is_tensorboard = str(logger.get("_target_")).endswith("TensorBoardLogger")
        if is_tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
            install = 'pip install "lit-share[tensorboard]"'
            yield f"logger.{name}: tensorboard is not installed: {install}"
    accelerator = str(config.trainer.get("accelerator", "auto"))
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        yield f"trainer.accelerator={accelerator}: there is no GPU"
    path = config.ckpt_path
    # Addresses are not looked up.
    if path is not None and "://" not in path and not Path(path).exists():
        yield f"ckpt_path={path}: there is no such file"


def _problem_of(node: DictConfig, key: str) -> Iterator[str]:
    from hydra.utils import instantiate

    try:
        instantiate(node, _convert_="all")
    except Exception as error:
        yield f"{key}: {_reason(error)}"


def _reason(error: Exception) -> str:
    """Return an error's message, without what Hydra adds to it."""
    if isinstance(error, InstantiationException):
        return one_line(error).partition(": ")[2]
    if isinstance(error, HydraException):
        # The search path is the same for all mistakes.
        lines = str(error).partition("Config search path")[0].strip().splitlines()
        text = "\n".join(line.expandtabs(2) for line in lines if line)
        if error.__cause__ is not None:
            cause = str(error.__cause__).splitlines()[0]
            return f"{text}: {cause}"
        return text
    if isinstance(error, ValueError):
        return str(error).strip()
    return one_line(error)


def _without_numbers(config: DictConfig) -> str:
    """Return a config as text, without its seed and its strength if they are valid numbers."""
    content: Any = OmegaConf.to_container(config, enum_to_str=True)
    if isinstance(content.get("seed"), int) and content["seed"] >= 0:
        del content["seed"]
    if isinstance(content.get("strength"), (int, float)):
        # A strength is not the same as none, which leaves that of each recipe.
        content["strength"] = "a number"
    return json.dumps(content, sort_keys=True, default=str)


@contextmanager
def _as_in_a_cell(config: DictConfig, directory: Path) -> Iterator[None]:
    """Set Hydra's config to that of a cell, from which `prepare` reads choices and the folder."""
    instance = HydraConfig.instance()
    before = instance.cfg
    with open_dict(config):
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.runtime.output_dir = str(directory)
        config.hydra.mode = "MULTIRUN"
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = before
