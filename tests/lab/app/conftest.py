"""Composes configs as the command line does, and runs them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from lit_share.lab.app.config import register_schema

ROOT = Path(__file__).parents[3]

Compose = Callable[..., DictConfig]


@pytest.fixture
def compose_config(tmp_path: Path) -> Iterator[Compose]:
    register_schema()

    def compose_(*overrides: str, output_dir: Path = tmp_path) -> DictConfig:
        output_dir.mkdir(exist_ok=True)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose(
                "train",
                [*overrides, f"hydra.runtime.output_dir={output_dir}"],
                return_hydra_config=True,
            )
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, None)
        with open_dict(config):
            del config["hydra"]
        return config

    yield compose_
    HydraConfig.instance().cfg = None
