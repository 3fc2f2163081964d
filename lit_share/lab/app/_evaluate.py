"""Evaluate the best checkpoint: its metrics, and the effect of sharing on the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from lit_share.callbacks import Regularize, Share
from lit_share.lab.app._check_job import warn_of_missing_test_metric
from lit_share.lab.app._objective import Mode, better_of, can_be_tested, unknown_objective
from lit_share.lab.app._train import Trained
from lit_share.lab.app.build import evaluator
from lit_share.lab.results import measure
from lit_share.metrics import sharing_stats

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Measurements of a trained model.

    Attributes:
        validation: Metrics on validation data.
        test: Metrics on test data; empty if the model or the data have no tests.
        sharing: The penalty, the distance between members, counts of parameters, and bytes.
        tied: For each tie, the fraction of its elements that are equal in all members.
        clusters: For each tie, the number of each member's cluster by the member's name.
        better: Whether large or small metrics are better, of those that say so.
    """

    validation: dict[str, float]
    test: dict[str, float]
    sharing: dict[str, float | None]
    tied: dict[str, float]
    clusters: dict[str, dict[str, int]]
    better: dict[str, Mode]


def evaluate(trained: Trained, config: DictConfig) -> Evaluation:
    """Validate and test the best checkpoint, and measure how much it shares.

    Raises:
        ValueError: If the objective is not among the validation metrics.
    """
    job, best = trained.job, trained.checkpoint
    _say_if_too_early(trained)
    model, data = job.model, job.data
    tester = evaluator(job, config)
    validation = tester.validate(model, datamodule=data, ckpt_path=best, verbose=False)
    test: Sequence[Mapping[str, float]] = []
    if can_be_tested(model, data):
        test = tester.test(model, datamodule=data, ckpt_path=best, verbose=False)
    measured = _merged(validation)
    if config.objective not in measured:
        raise ValueError(unknown_objective(config.objective, measured))
    warn_of_missing_test_metric(job, config.objective, _merged(test))
    if trained.rows is not None:
        # Layers with tied rows store a codebook, to which the patterns of ties do not apply.
        stats = sharing_stats(model).as_dict()
        return Evaluation(measured, _merged(test), stats, {}, {}, better_of(job.trainer))
    return Evaluation(measured, _merged(test), *_sharing(trained), better_of(job.trainer))


def _say_if_too_early(trained: Trained) -> None:
    """Log that the best checkpoint is from before members are shared, so that none are."""
    if trained.checkpoint is None:
        return
    for name, regularizer in trained.job.regularizers.items():
        if isinstance(regularizer, Share) and trained.epoch < regularizer.epoch:
            log.info(
                "the best checkpoint is of epoch %d, before regularizer.%s.epoch=%d: its members "
                "are not shared",
                trained.epoch,
                name,
                regularizer.epoch,
            )


def _sharing(
    trained: Trained,
) -> tuple[dict[str, float | None], dict[str, float], dict[str, dict[str, int]]]:
    """Restore regularizers; return what is measured of sharing: see `Evaluation`."""
    job, penalty = trained.job, 0.0
    for regularizer in job.regularizers.values():
        if regularizer.state_key in trained.states:
            # Spawned processes trained with copies of the regularizers.
            regularizer.load_state_dict(trained.states[regularizer.state_key])
        if isinstance(regularizer, Regularize):
            penalty += regularizer.value(job.model, trained.step, trained.epoch)
    measured = measure(job.model, job.ties)
    return {"penalty": penalty, **measured.sharing}, measured.tied, measured.clusters


def _merged(metrics_of_loaders: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: value for metrics in metrics_of_loaders for name, value in metrics.items()}
