"""Train a pair of models with some sharing between them: `python train.py regularizer=soft_tie`."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lit_share.lab.app.config import register_schema
from lit_share.lab.errors import user_errors_in_one_line

register_schema()


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Train according to the config, and return the objective for sweepers."""
    # `run` imports torch, which takes seconds that `--help` does not need.
    from lit_share.lab.app.run import run

    job = HydraConfig.get()
    with user_errors_in_one_line():
        return run(config, Path(job.runtime.output_dir), list(job.overrides.task))


if __name__ == "__main__":
    # Configs may name the user's modules in the working directory. Processes of a sweep inherit
    # the path.
    sys.path.append(str(Path.cwd()))
    main()
