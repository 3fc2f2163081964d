"""The walk along a `Path` in a Trainer: its knots, their checkpoints, and the choice."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from lit_share.callbacks._path_scores import Score, ValidationScores
from lit_share.callbacks._share import Share
from lit_share.files import write_text
from lit_share.functional import Comparison
from lit_share.lightnings import Callback, fabric_module, is_a
from lit_share.metrics import compare_found
from lit_share.penalties import DivergedError, Path
from lit_share.ties import Tie, cluster_ties, distinctly_named

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

PATH_FILE = "path.json"


@dataclass(frozen=True)
class Knot:
    """What was measured at the end of a knot.

    Attributes:
        strength: The strength, before a schedule's factor.
        epoch: The last epoch of the knot, counted from 0.
        step: The number of optimizer steps done.
        score: The score on validation data.
        error: Its standard error; ``None`` if unknown.
        distance: `lit_share.overall_distance` of the ties; ``None`` if none has several members.
        tied: For each tie, the fraction of elements in which all members are equal.
        clusters: For each tie, the number of clusters of equal members.
        checkpoint: The path of its checkpoint.
    """

    strength: float
    epoch: int
    step: int
    score: float
    error: float | None = None
    distance: float | None = None
    tied: dict[str, float] = field(default_factory=dict)
    clusters: dict[str, int] = field(default_factory=dict)
    checkpoint: str = ""

    def __str__(self) -> str:
        text = f"{self.score:.4g}"
        if self.error is not None:
            text += f" ± {self.error:.2g}"
        return text


class PathWalk:
    """The knots that a training has reached, and the one that was chosen at its end.

    All `Regularize` callbacks of a Trainer walk one path together.

    Args:
        path: The strengths, and how to choose among them.

    Attributes:
        knots: The finished knots, in the order of their strengths.
        chosen: The index of the chosen knot; ``None`` before the end of training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = ""
        self._is_dev_run = False
        self._scores: ValidationScores | None = None
        # Whether the last knot has no checkpoint yet.
        self._is_unsaved = False
        # The checkpoints that this training has written.
        self._written: set[str] = set()
        # Why training has ended before the last knot, if that is known.
        self._reason = ""
        self.restore({})

    @property
    def best_path(self) -> str:
        """The checkpoint of the chosen knot; ``""`` before the end of training."""
        if self.chosen is None:
            return ""
        return self.knots[self.chosen].checkpoint

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        # Without classes of this package, checkpoints load with `weights_only=True`.
        unscored = None
        if self._unscored is not None:
            unscored = asdict(self._unscored)
        knots = [asdict(knot) for knot in self.knots]
        return {"knots": knots, "chosen": self.chosen, "unscored": unscored}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `state` returned; the start of training if it is empty."""
        self.knots: list[Knot] = [Knot(**knot) for knot in state.get("knots", ())]
        self.chosen: int | None = state.get("chosen")
        unscored = state.get("unscored")
        # What was measured at the end of a knot whose score the module has not logged yet.
        self._unscored: Knot | None = None
        if unscored is not None:
            self._unscored = Knot(**unscored)

    def check(self, trainer: Trainer) -> None:
        """Raise `ValueError` if the Trainer cannot walk the path, and warn of what disturbs it."""
        path, given = self.path, trainer.max_epochs
        self._is_dev_run = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        if self._is_dev_run:
            # A few batches are no knot.
            return
        if given != path.max_epochs:
            first = path.max_epochs - path.steps * path.epochs
            raise ValueError(
                f"the Path needs {path.max_epochs} epochs, {first} without a penalty and "
                f"{path.epochs} for each of {path.steps} strengths, but the Trainer has "
                f"max_epochs={given}: write Trainer(max_epochs={path.max_epochs}), "
                "or change epochs=, first= or steps= of the Path"
            )
        callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if is_a(callback, "WeightAveraging", "StochasticWeightAveraging"):
                raise ValueError(
                    f"{type(callback).__name__} averages weights of several strengths, which no "
                    "knot of the Path has: leave it out, or give strength= a number"
                )
            if isinstance(callback, Share) and not callback.is_before_training:
                raise ValueError(
                    f"{callback!r} shares parameters in training, into which the weights of an "
                    "earlier knot would not fit: train with the strength that the Path chooses, "
                    "and Share then"
                )
            if is_a(callback, "EarlyStopping"):
                rank_zero_warn(
                    f"{type(callback).__name__} may end the Path before its largest strength; the "
                    "choice is then among the knots that were reached: leave it out"
                )
        self._warn_of_schedulers(trainer)

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Prepare the validation data and the folder, before the first batch."""
        self._check_steps(trainer)
        self._resume(trainer)
        if self.chosen is not None:
            # Training had diverged, and the checkpoint has the weights of the choice.
            trainer.should_stop = True
        self._scores = ValidationScores(trainer, module, self.path)
        folder = self.path.dirpath
        if folder is None:
            # Whatever the callback's class is called, `ModelCheckpoint` is what has a folder.
            saved = getattr(trainer.checkpoint_callback, "dirpath", None)
            folder = f"{saved or trainer.log_dir or trainer.default_root_dir}/path"
            if self.knots:
                folder = self.knots[0].checkpoint.rpartition("/")[0]
            else:
                folder = _unused(folder)
        if "://" not in folder:
            folder = str(pathlib.Path(folder).absolute())
        self.folder = trainer.strategy.broadcast(folder)
        self._validate_again(trainer)

    def end_epoch(self, trainer: Trainer, ties: Sequence[Tie]) -> None:
        """Measure and save a knot if this was its last epoch; call it after the last batch.

        A call that follows in the same epoch has no effect.

        Args:
            trainer: The trainer.
            ties: The ties of all penalties that walk the path.
        """
        epoch = trainer.current_epoch
        is_done = self.chosen is not None or any(knot.epoch == epoch for knot in self.knots)
        if self._unscored is not None and self._unscored.epoch == epoch:
            is_done = True
        if self._is_dev_run or is_done or not self.path.ends_with(epoch):
            return
        assert self._scores is not None
        # Distances come first: with FSDP2, a forward pass leaves parameters gathered.
        knot = self._measured(trainer, ties)
        if self._scores.is_of_batches:
            self._add(knot, self._scores.measure())
        else:
            self._unscored = knot

    def end_validation(self, trainer: Trainer) -> None:
        """Read the score if the module logs it at the end of validation, and save the knot."""
        if trainer.sanity_checking or self._scores is None:
            return
        if not self._scores.is_of_batches:
            self._read_score(trainer)
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save the last knot unless that is done; call it when an epoch ends."""
        # Lightning 2.6 miscounts epochs if it resumes, twice in a row, from checkpoints that were
        # saved in `on_train_batch_end` of a last batch. So these are saved later.
        if self._is_unsaved:
            self._is_unsaved = False
            path = self.knots[-1].checkpoint
            trainer.save_checkpoint(path, weights_only=False)
            self._written.add(path)

    def stop(self, trainer: Trainer, error: DivergedError) -> bool:
        """End training, which has diverged; return whether there are knots to choose from."""
        if self._is_dev_run or self.chosen is not None or not self.knots:
            return False
        strength = self.path.at(trainer.current_epoch)
        self._reason = (
            f" because it diverged at strength {strength:.4g} ({error}), so write a smaller "
            "Path(high=...)"
        )
        # A later validation is of other weights.
        self._unscored = None
        trainer.should_stop = True
        return True

    def finish(self, trainer: Trainer) -> Mapping[str, Any]:
        """Choose a knot, load its weights, and say so.

        Returns:
            The states of callbacks in its checkpoint, by their keys; empty if nothing was chosen.
        """
        if self._is_dev_run or self.chosen is not None:
            return {}
        steps = len(self.path.strengths)
        if not self.knots:
            rank_zero_warn(
                f"training ended before the first of the {steps} knots of the Path"
                f"{self._why_missing()}: nothing is chosen, and the module keeps its last weights"
            )
            return {}
        if len(self.knots) < steps:
            rank_zero_warn(
                f"training ended after {len(self.knots)} of the {steps} knots of the Path"
                f"{self._why_missing()}: the choice is among these"
            )
        scores, errors = [k.score for k in self.knots], [k.error for k in self.knots]
        # All ranks have the same numbers; the choice is sent so that they cannot disagree.
        self.chosen = int(trainer.strategy.broadcast(self.path.choice(scores, errors)))
        if self.path.choose != "best" and errors[self.chosen] is None:
            rank_zero_warn(
                "the Path's scores have no standard error, so the best knot is chosen: monitor a "
                "metric that validation_step logs for each batch, or write Path(choose='best')"
            )
        knot = self.knots[self.chosen]
        if trainer.is_global_zero:
            content = {"score": self.score_name, **self.state()}
            folder = knot.checkpoint.rpartition("/")[0]
            # Processes that were spawned return no state of callbacks, but files.
            _write_text(f"{folder}/{PATH_FILE}", json.dumps(content, indent=2))
        # Hyperparameters may be any objects. A path that was restored may name a file of others, in
        # which objects could run code.
        weights_only = None
        if knot.checkpoint in self._written:
            weights_only = False
        states = _load_weights(trainer, knot.checkpoint, weights_only)
        rank_zero_info(self.report())
        return states

    def end(self) -> None:
        """Drop what belongs to a Trainer."""
        self._scores = self._unscored = None
        self._is_unsaved = False
        self._reason = ""

    @property
    def score_name(self) -> str:
        """The name of the score."""
        loss = self.path.loss
        if not isinstance(loss, str):
            loss = None
        return self.path.monitor or loss or "validation loss"

    def report(self) -> str:
        """Return the knots as a table in plain text; an arrow marks the chosen one."""
        lines = [f"{'strength':>10}  {self.score_name}"]
        for number, knot in enumerate(self.knots):
            lines.append(f"{knot.strength:>10.4g}  {knot}")
            if number == self.chosen:
                lines[-1] += "  <- chosen, its weights are loaded"
        return "\n".join(lines)

    def _read_score(self, trainer: Trainer) -> None:
        monitor, results = str(self.path.monitor), trainer._results
        # `callback_metrics` has those of training, too.
        metrics: Mapping[str, Any] = trainer.callback_metrics
        if results is not None:
            metrics = results.metrics(on_step=False)["callback"]
        if monitor not in metrics:
            raise ValueError(
                f"Path(monitor={monitor!r}): no metric of this name is logged in validation: write "
                f"one of {', '.join(map(repr, metrics))}"
            )
        # Epochs inside a knot are validated, too, also those after an epoch that was not. Weights
        # are those of the knot until the next step.
        if self._unscored is not None and self._unscored.step == trainer.global_step:
            knot, self._unscored = self._unscored, None
            self._add(knot, Score(float(metrics[monitor]), None))

    def _measured(self, trainer: Trainer, ties: Sequence[Tie]) -> Knot:
        """Return a knot without a score."""
        # Several penalties may have the same ties.
        different = {tuple(member.name for member in tie.members): tie for tie in ties}
        compared = distinctly_named([tie for tie in different.values() if tie.compares])
        comparisons = compare_found(compared)
        tied = {tie.name: own.tied for tie, own in zip(compared, comparisons, strict=True)}
        distance = None
        if compared:
            distance = Comparison.total(comparisons).distance
        return Knot(
            strength=self.path.at(trainer.current_epoch),
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            # It replaces this number when it is known.
            score=math.nan,
            distance=distance,
            tied=tied,
            clusters={tie.name: tie.count for tie in cluster_ties(compared).ties},
        )

    def _add(self, knot: Knot, score: Score) -> None:
        file = f"{self.folder}/knot_{self.path.knot(knot.epoch)}.ckpt"
        scored = replace(knot, score=score.value, error=score.error, checkpoint=file)
        self.knots.append(scored)
        self._is_unsaved = True

    def _resume(self, trainer: Trainer) -> None:
        """Raise `ValueError` if the checkpoint of a restored knot is gone."""
        if not self.knots:
            return
        there = _filesystem(self.knots[0].checkpoint).exists
        gone = [k for k, knot in enumerate(self.knots) if not there(knot.checkpoint)]
        gone = trainer.strategy.broadcast(gone)
        if not gone:
            return
        last = self.knots[-1]
        if gone == [len(self.knots) - 1] and last.step == trainer.global_step:
            # A checkpoint of the last batch precedes that of its knot, and has the same weights.
            self._is_unsaved = True
            self.save(trainer)
            return
        raise ValueError(
            f"the resumed Path may choose {self.knots[gone[0]].checkpoint}, which is not there any "
            "more: put it back, or train from the start"
        )

    def _validate_again(self, trainer: Trainer) -> None:
        """Validate the knot of a checkpoint that was saved before its validation."""
        every = trainer.check_val_every_n_epoch or 1
        knot = self._unscored
        if knot is None or knot.step != trainer.global_step or (knot.epoch + 1) % every:
            return
        # Lightning 2.6 resumes a last batch after the validation that would have followed it, in
        # the next epoch.
        trainer.validating = True
        loop = trainer.fit_loop.epoch_loop.val_loop
        # From its first batch.
        loop.restarting = False
        loop.run()
        trainer.training = True

    def _check_steps(self, trainer: Trainer) -> None:
        if trainer.max_steps == -1 or self._is_dev_run:
            return
        batches = trainer.num_training_batches
        each = math.inf
        if batches != math.inf:
            each = math.ceil(batches / trainer.accumulate_grad_batches)
        # The smallest number: an epoch of manual optimization may have more steps.
        needed = self.path.max_epochs * each
        if trainer.max_steps < needed:
            raise ValueError(
                f"the Path needs {self.path.max_epochs} epochs of {each} steps, but the Trainer "
                f"has max_steps={trainer.max_steps}: leave max_steps out"
            )

    def _warn_of_schedulers(self, trainer: Trainer) -> None:
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, CosineAnnealingWarmRestarts) and config.interval == "epoch":
                same_first = self.path.first in (None, self.path.epochs)
                if same_first and (scheduler.T_0, scheduler.T_mult) == (self.path.epochs, 1):
                    continue
            rank_zero_warn(
                f"{type(scheduler).__name__} may change learning rates from knot to knot of the "
                "Path, whose scores then differ for another reason than their strengths: keep "
                "learning rates constant, or restart them with each knot"
            )

    def _why_missing(self) -> str:
        if self._unscored is not None:
            return f" (the last one has no {self.path.monitor!r}, as it was not validated)"
        return self._reason


def join_walk(path: Path, others: Sequence[PathWalk]) -> PathWalk:
    """Return the walk of other callbacks of a Trainer, or begin one.

    Raises:
        ValueError: If they walk another path.
    """
    if not others:
        return PathWalk(path)
    # Of two paths, each would choose among knots that the other has changed.
    if others[0].path != path:
        raise ValueError(
            f"one training walks one path, but the penalties have {others[0].path} and {path}: "
            "give them the same Path, or a number to all but one"
        )
    return others[0]


def _unused(folder: str) -> str:
    """Return a folder in which no earlier training has left knots, with a version as Lightning."""
    exists, candidate = _filesystem(folder).exists, folder
    for version in count(1):
        if not (exists(f"{candidate}/{PATH_FILE}") or exists(f"{candidate}/knot_0.ckpt")):
            break
        candidate = f"{folder}-v{version}"
    return candidate


def _write_text(path: str, text: str) -> None:
    if "://" not in path:
        write_text(path, text)
        return
    # Other filesystems, such as those of buckets, put a file in place when it is closed.
    with _filesystem(path).open(path, "w") as file:
        file.write(text)


def _filesystem(path: str) -> Any:
    return fabric_module("utilities.cloud_io").get_filesystem(path)


def _load_weights(trainer: Trainer, path: str, weights_only: bool | None) -> Mapping[str, Any]:
    """Load the module of a checkpoint as Lightning does, and return the states of callbacks.

    Those of optimizers are left as they are.
    """
    strategy = trainer.strategy
    optimizers, strategy.optimizers = strategy.optimizers, []
    try:
        # With FSDP2 this reads into the module, and into the optimizers that the strategy has.
        checkpoint = strategy.load_checkpoint(path, weights_only=weights_only)
    finally:
        strategy.optimizers = optimizers
    trainer.lightning_module.on_load_checkpoint(checkpoint)
    strategy.load_model_state_dict(checkpoint, strict=True)
    states: Mapping[str, Any] = checkpoint["callbacks"]
    return states
