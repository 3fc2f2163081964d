"""Write the result of a run that `train.py` did not make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lit_share.lab.results._measure import measure
from lit_share.lab.results._result import RESULT_FILE, Result
from lit_share.text import suggest

if TYPE_CHECKING:
    from torch import nn

    from lit_share.ties import Ties


def write_result(
    directory: str | Path,
    *,
    strategy: str,
    seed: int,
    validation: Mapping[str, Any],
    test: Mapping[str, Any],
    objective: str | None = None,
    mode: Literal["min", "max"] = "min",
    strength: float | None = None,
    module: nn.Module | None = None,
    ties: Ties | Sequence[Ties] | None = None,
    seconds: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Write the `result.json` of a run of your own script, for ``lit-share compare``.

    Args:
        directory: A folder for each run, which is created. A result in it is replaced.
        strategy: Name of the row of the table, such as ``"soft_tie"``. Differences are to
            ``"none"``.
        seed: Runs with the same seed are compared with each other, so let it decide their data and
            initial weights.
        validation: Metrics on validation data by name: numbers, or tensors of one number.
        test: Metrics on test data. The table has the one with the name of the objective and
            ``test`` in place of ``val``, or that of ``--metric``.
        objective: Name of the validation metric that chooses the strength for each seed. ``None``:
            the only one in ``validation``.
        mode: Whether a small (``"min"``) or a large (``"max"``) objective is better.
        strength: The strength, if the strategy has one.
        module: The trained model, whose parameters, bytes and distances are measured.
        ties: Which parameters are compared, the same for all strategies; needs ``module``.
        seconds: Duration of training.
        settings: What else makes another experiment, by name, such as ``{"data.n_new": 20}``. Each
            setting has its own rows.

    Returns:
        The result as it was written.

    Raises:
        ValueError: If there is no such objective, a metric is no number, or there are ties without
            a module.
        TieError: If the ties do not fit the module.
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import nn
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> scores = {"validation": {"val/loss": 0.2}, "test": {"test/loss": 0.3}}
        >>> with TemporaryDirectory() as folder:
        ...     write_result(folder, strategy="none", seed=0, module=pair, **scores).objective
        'val/loss'
    """
    scores, tests = _numbers("validation", validation), _numbers("test", test)
    if objective is None:
        if len(scores) != 1:
            names = ", ".join(scores) or "there are none"
            raise ValueError(
                "objective: name the metric of validation data that chooses the strength, one of "
                f"those in validation={{...}}: {names}"
            )
        (objective,) = scores
    if objective not in scores:
        raise ValueError(
            f"objective={objective!r} is not among validation={{...}}{suggest(objective, scores)}"
        )
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode!r}: write 'min' if a small {objective} is better, or 'max'")
    measured: dict[str, Any] = {}
    if module is not None:
        measured = vars(measure(module, ties))
    elif ties is not None:
        raise ValueError("ties are those of a model: add module=model, or leave ties out")
    overrides = [f"{key}={value}" for key, value in (settings or {}).items()]
    if strength is not None:
        strength = float(strength)
    result = Result(
        path=Path(directory) / RESULT_FILE,
        schema=1,
        status="finished",
        strategy=strategy,
        seed=int(seed),
        objective=objective,
        mode=mode,
        overrides=overrides,
        strength=strength,
        validation=scores,
        test=tests,
        seconds=seconds,
        **measured,
    )
    result.path.parent.mkdir(parents=True, exist_ok=True)
    result.write()
    return result


def _numbers(key: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(metrics, Mapping) or not metrics:
        raise ValueError(
            f"{key}: write the metrics by name, {key}={{'loss': 0.1}}, got {metrics!r}; "
            "Trainer.validate and Trainer.test return a list of such dicts"
        )
    numbers = {}
    for name, value in metrics.items():
        # torch warns of numbers that are taken from tensors with a graph.
        if hasattr(value, "detach"):
            value = value.detach()
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"{key}[{name!r}] must be a number, got a {type(value).__name__}"
            ) from None
    return numbers
