"""Set data up for all stages before training, as evaluation follows only after it."""

from __future__ import annotations

import copy
import logging

from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig

from lit_share.lab.app._objective import can_be_tested
from lit_share.lab.app.build import Job

log = logging.getLogger(__name__)
# The data modules that this process has checked: cells of a sweep have the same.
_checked: set[str] = set()


def check_stages(job: Job, config: DictConfig) -> None:
    """Call ``setup`` of the data module for each stage of the run, on a copy of it.

    Raises:
        ValueError: If a stage after training, ``"validate"`` or ``"test"``, raises an error.
        Exception: In a dry run, what ``prepare_data`` and the stage ``"fit"`` raise.
    """
    target = str(config.data.get("_target_"))
    if target in _checked and not config.dry_run:
        return
    data = job.data
    if not config.dry_run:
        try:
            # Some data modules keep what the last stage was, or draw from a generator.
            data = copy.deepcopy(data)
        except Exception as error:
            log.info(
                "data: not set up for evaluation before training, as it has no copy: %s", error
            )
            return
    data.trainer = job.trainer
    stages = ["validate"]
    if can_be_tested(job.model, job.data):
        stages.append("test")
    with isolate_rng():
        try:
            data.prepare_data()
            data.setup("fit")
        except Exception:
            if config.dry_run:
                raise
            # Training begins with the same calls, and says what is wrong.
            return
        for stage in stages:
            try:
                data.setup(stage)
            except Exception as error:
                raise ValueError(
                    f"data: setup({stage!r}) of {type(data).__name__} fails after setup('fit'): "
                    f"{type(error).__name__}: {error}. The best checkpoint is evaluated in this "
                    f"stage after training, so let {target} return data whose setup takes it"
                ) from error
    _checked.add(target)
