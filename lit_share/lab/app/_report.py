"""Write a run's `result.json`, log its final numbers, and print them as a table."""

from __future__ import annotations

from dataclasses import asdict, replace

import rich
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from lit_share.lab.app._evaluate import Evaluation
from lit_share.lab.app._train import Trained
from lit_share.lab.app.config import sweep_name
from lit_share.lab.app.tracking import is_first_rank, log_result
from lit_share.lab.results import Result
from lit_share.text import visible


def finished_result(unfinished: Result, trained: Trained, evaluation: Evaluation) -> Result:
    """Return the result of a run that has been trained and evaluated."""
    return replace(
        unfinished,
        status="finished",
        epochs=trained.epochs,
        course=trained.course.best,
        rows=trained.rows,
        seconds=trained.seconds,
        checkpoint=trained.checkpoint,
        training_bytes=trained.training_bytes,
        distances=trained.distances,
        strengths=trained.strengths,
        strength_path=trained.strength_path,
        **asdict(evaluation),
    )


def pruned_result(unfinished: Result, trained: Trained) -> Result:
    """Return the result of a trial that was stopped early, which is never tested."""
    return replace(
        unfinished,
        status="pruned",
        epochs=trained.epochs,
        course=trained.course.best,
        seconds=trained.seconds,
    )


def report(result: Result, trained: Trained) -> None:
    """Log, write and print the result of a run.

    Raises:
        OSError: If the file cannot be written; the result is printed nevertheless.
    """
    _log_summary(result, trained)
    if not is_first_rank():
        return
    try:
        # The result is on disk before W&B finishes, which may take minutes or fail.
        result.write()
    finally:
        if sweep_name() is None:
            rich.print(table_of(result))


def _log_summary(result: Result, trained: Trained) -> None:
    trainer = trained.job.trainer
    final = {f"final/{key}": value for key, value in result.sharing.items() if value is not None}
    for logger in trainer.loggers:
        logger.log_metrics(final, step=trainer.global_step)
        logger.save()
    log_result(trainer.loggers, result.test | final)


def table_of(result: Result) -> Table:
    """Return the result as a table for the terminal."""
    title = Text(f"{visible(result.strategy)}, seed {result.seed}")
    table = Table(title=title, box=SIMPLE, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    if result.test:
        table.add_row(Text("on test data:", style="italic"), "")
    for name, value in result.test.items():
        table.add_row(Text(visible(name)), f"{value:.4f}")
    table.add_section()
    sharing = result.sharing
    # After a second phase there are neither a penalty nor ties, but zero and equal rows.
    if result.rows is None:
        table.add_row("penalty", f"{sharing['penalty']:.4g}")
        if sharing["distance"] is not None:
            table.add_row("distance", f"{sharing['distance']:.4f}")
        several = [labels for labels in result.clusters.values() if len(labels) > 2]
        if several:
            count = sum(len(set(labels.values())) for labels in several)
            members = sum(map(len, several))
            table.add_row("clusters of equal members", f"{count} of {members} members")
    else:
        table.add_row("sparsity (zeros / parameters)", f"{sharing['sparsity']:.3f}")
        table.add_row("sharing (nonzero / unique)", f"{sharing['sharing']:.2f}")
    if result.strengths:
        last = [course[-1] for course in result.strengths.values() if course]
        table.add_row("learned strengths", f"{min(last):.4g} to {max(last):.4g}")
    if result.strength_path is not None:
        knot = result.strength_path["knots"][result.strength_path["chosen"]]
        table.add_row("chosen strength", f"{knot['strength']:.4g}")
    table.add_row("parameters", f"{sharing['total']:,}")
    table.add_row("unique parameters", f"{sharing['unique']:,}")
    table.add_row("compression (parameters / unique)", f"{sharing['compression']:.2f}")
    if sharing["bytes"] is not None:
        table.add_row("bytes of a compact file", f"{sharing['file_bytes']:,}")
        table.add_row("of these, of its numbers", f"{sharing['bytes']:,}")
    table.add_row("seconds", f"{result.seconds:.1f}")
    return table
