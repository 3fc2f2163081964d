import json
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode

from lit_share.lab.app.config import register_schema
from lit_share.lab.sweeps import Composer

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def write():
    """Write a `result.json` as a run does; keywords replace its entries, `None` removes them."""

    def write(directory: Path, strategy="none", seed=0, val=0.5, test=0.5, **keywords) -> Path:
        content = {
            "schema": 1,
            "status": "finished",
            "error": None,
            "strategy": strategy,
            "data": "digits",
            "ties": "all",
            "model": "mlp",
            "strength": None,
            "seed": seed,
            "objective": "b/val/acc",
            "mode": "max",
            "validation": {"a/val/acc": 0.9, "b/val/acc": val},
            "test": {"a/test/acc": 0.9, "b/test/acc": test},
            "sharing": {
                "penalty": 0.1,
                "distance": 2.0,
                "total": 100,
                "unique": 100,
                "compression": 1.0,
            },
            "seconds": 10.0,
            "overrides": [f"seed={seed}"],
        }
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "result.json"
        path.write_text(json.dumps(content | keywords))
        return path

    return write


@pytest.fixture
def sweep(tmp_path, write):
    """A sweep: two strategies, one with two strengths; three seeds, two numbers of examples."""

    def run(strategy, n, seed, strength=None):
        test = 0.5 + n / 1000 + 0.01 * seed + (0.1 if strategy == "soft_tie" else 0.0)
        overrides = [f"regularizer={strategy}", f"data.n_b={n}", f"seed={seed}"]
        directory = tmp_path / "sweep" / f"{strategy}-{n}-{seed}-{strength}"
        equal = 1.0 if strategy == "soft_tie" else 0.25
        write(
            directory,
            strategy,
            seed,
            val=test + (strength or 0.0),
            test=test,
            strength=strength,
            overrides=overrides + ([f"strength={strength}"] if strength else []),
            sharing={"unique": 100 - 10 * seed, "distance": 0.5, "bytes": 400 + seed},
            distances={"trunk.weight": [1.0, 0.5, 0.25 * equal], "head.weight": [1.0, 0.75, 0.5]},
            tied={"trunk.weight": equal, "head.weight": 0.0},
            training_bytes=1600,
        )
        (directory / "config.yaml").write_text(f"seed: {seed}\nstrategy: {strategy}\n")

    for n in (20, 50):
        for seed in range(3):
            run("none", n, seed)
            run("soft_tie", n, seed, 0.1)
            run("soft_tie", n, seed, 0.01)
    return tmp_path / "sweep"


@pytest.fixture
def composer(tmp_path):
    """What a sweep of `train.py` composes its cells with."""
    register_schema()
    # Configs refer to Hydra's resolvers.
    setup_globals()
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{CONF}"))
    overrides = [f"hydra.sweep.dir={tmp_path}"]
    config = loader.load_configuration("train", overrides, run_mode=RunMode.MULTIRUN)
    return Composer(loader, config)
