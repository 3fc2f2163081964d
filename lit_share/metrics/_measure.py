"""The metrics of sharing that monitors log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lit_share.functional import Comparison
from lit_share.metrics._counts import compare_found, count_numbers
from lit_share.ties import Tie, cluster_ties


def measure_sharing(
    module: nn.Module,
    ties: Sequence[Tie],
    per_tie: bool = True,
    comparisons: Mapping[str, Comparison] | None = None,
) -> dict[str, float]:
    """Return what `lit_share.SharingMonitor` logs of a module and its ties, by name.

    Args:
        module: The module.
        ties: Its ties of several members, with different names.
        per_tie: Whether each tie's distance is included.
        comparisons: Those of the ties by their names, where they are known.

    Returns:
        ``sharing/sparsity``, ``sharing/unique`` and ``sharing/compression``; with ties also
        ``sharing/distance``, ``sharing/tied``, ``sharing/clusters``, ``sharing/distance_of/<tie>``.

    Example:
        >>> from lit_share.ties import Ties
        >>> pair = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
        >>> pair["b"].load_state_dict(pair["a"].state_dict())
        <All keys matched successfully>
        >>> measured = measure_sharing(pair, Ties("a.*", "b.*").find(pair))
        >>> measured["sharing/distance"], measured["sharing/tied"]
        (0.0, 1.0)
    """
    stats = count_numbers(module, ties)
    values = {
        "sharing/sparsity": stats.sparsity,
        "sharing/unique": float(stats.unique),
        "sharing/compression": stats.compression,
    }
    if comparisons is None:
        pairs = zip(ties, compare_found(ties), strict=True)
        comparisons = {tie.name: own for tie, own in pairs}
    if ties:
        total = Comparison.total(list(comparisons.values()))
        values |= {"sharing/distance": total.distance, "sharing/tied": total.tied}
        values["sharing/clusters"] = float(cluster_ties(ties).count)
    if per_tie:
        for name, own in comparisons.items():
            values[metric_name(f"sharing/distance_of/{name}")] = own.distance
    return values


def metric_name(text: str) -> str:
    """Return a name of a metric that all loggers accept: MLflow rejects ``=``.

    Example:
        >>> metric_name("sharing/distance_of/a.weight = b.weight")
        'sharing/distance_of/a.weight - b.weight'
    """
    return text.replace(" = ", " - ")
