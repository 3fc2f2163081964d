"""The stability of the set of selected rows between runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def index_change(selections: Tensor) -> Tensor:
    r"""Return the fraction of selected rows that change between two runs, averaged over all pairs.

    With the set :math:`S_r` of rows that run r selects, and R runs,

    .. math::
        \frac{2}{R (R - 1)} \sum_{r < s} \frac{|S_r \mathbin{\triangle} S_s|}{|S_r| + |S_s|}

    where :math:`\triangle` is the symmetric difference. For runs that select the same number of
    rows, this is the fraction of a run's rows that the other run does not select. A pair of empty
    selections counts as 0.

    Args:
        selections: Bool tensor of shape ``(runs, rows)`` with at least two runs.

    Returns:
        Float64 scalar in [0, 1]: 0 if all runs select the same rows, 1 if no two have a row in
        common.

    Raises:
        ValueError: If ``selections`` has another dtype or shape.

    Example:
        Both runs select two rows, and each a third row that the other does not select:

        >>> index_change(torch.tensor([[True, True, True, False], [True, True, False, True]]))
        tensor(0.3333, dtype=torch.float64)

    Source:
        After the "percentage of index changes" in the experiment on MNIST of Zhang, Wang,
        Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying and Sparsification in
        Deep Learning*, ICLR 2018. Their published code does not compute it: this formula, 1 minus
        Dice's coefficient, is our reading. Relative to the size of a single selection, the
        symmetric difference would be about twice as large.
    """

    def ratio(common: Tensor, size_r: Tensor, size_s: Tensor) -> tuple[Tensor, Tensor]:
        return size_r + size_s - 2 * common, size_r + size_s

    return _mean_over_pairs(selections, ratio, if_empty=0.0)


def jaccard(selections: Tensor) -> Tensor:
    r"""Return Jaccard's index of the rows that two runs select, averaged over all pairs of runs.

    .. math::
        \frac{2}{R (R - 1)} \sum_{r < s} \frac{|S_r \cap S_s|}{|S_r \cup S_s|}

    A pair of empty selections counts as 1.

    Args:
        selections: Bool tensor of shape ``(runs, rows)`` with at least two runs.

    Returns:
        Float64 scalar in [0, 1]: 1 if all runs select the same rows, 0 if no two have a row in
        common.

    Raises:
        ValueError: If ``selections`` has another dtype or shape.

    Example:
        >>> jaccard(torch.tensor([[True, True, True, False], [True, True, False, True]]))
        tensor(0.5000, dtype=torch.float64)
    """

    def ratio(common: Tensor, size_r: Tensor, size_s: Tensor) -> tuple[Tensor, Tensor]:
        return common, size_r + size_s - common

    return _mean_over_pairs(selections, ratio, if_empty=1.0)


class SelectionStability(Metric):
    """The stability of the set of selected (nonzero) rows: `index_change` and `jaccard`.

    Each `update` adds a run. After training with ``groups="input"``, a layer has selected the rows
    ``(weight != 0).any(dim=0)``, and a codebook layer the rows ``assignment >= 0``. Calling the
    metric would compare the runs of a single update, and raises: use `update` and `compute`.

    Args:
        **kwargs: For `torchmetrics.Metric`.

    Example:
        >>> stability = SelectionStability()
        >>> stability.update(torch.tensor([True, True, True, False]))
        >>> stability.update(torch.tensor([True, True, False, True]))
        >>> {name: round(float(value), 2) for name, value in stability.compute().items()}
        {'index_change': 0.33, 'jaccard': 0.5}
    """

    # A run is only appended, so torchmetrics need not repeat earlier updates in `forward`.
    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    selected: list[Tensor] | Tensor
    runs: Tensor
    rows: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        # Selections are flat and in the metric's dtype, like the tensor that torchmetrics gathers
        # from a rank without runs.
        self.add_state("selected", [], dist_reduce_fx="cat")
        self.add_state("runs", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        # The maximum ignores the 0 of a rank without runs.
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, selected: Tensor) -> None:
        """Add a run.

        Args:
            selected: Bool tensor of shape ``(rows,)``: a mask of the rows that the run selected.

        Raises:
            ValueError: If ``selected`` has another dtype or shape, or not the number of rows of
                earlier runs.
        """
        if selected.dtype != torch.bool or selected.ndim != 1:
            raise ValueError(
                "a selection is a bool tensor of shape (rows,), for instance "
                f"(weight != 0).any(dim=0): got {selected.dtype} of shape {tuple(selected.shape)}"
            )
        if self.runs > 0 and self.rows != len(selected):
            raise ValueError(
                f"all runs select from the same rows: got {len(selected)} rows after runs with "
                f"{int(self.rows)}"
            )
        assert isinstance(self.selected, list)
        self.selected.append(selected.to(self.dtype))
        self.runs += 1
        self.rows.fill_(len(selected))

    def compute(self) -> dict[str, Tensor]:
        """Return ``index_change`` and ``jaccard`` by name.

        Raises:
            ValueError: If there are fewer than two runs, or ranks have different numbers of rows.
        """
        flat = torch.zeros(0)
        if len(self.selected):
            flat = dim_zero_cat(self.selected)
        # `update` compares the rows of a rank's runs; only the gathered length shows other ranks'.
        if len(flat) != self.runs * self.rows:
            raise ValueError(
                f"all runs select from the same rows: not all processes have {int(self.rows)} rows"
            )
        selections = flat.bool().view(int(self.runs), int(self.rows))
        return {"index_change": index_change(selections), "jaccard": jaccard(selections)}


def _mean_over_pairs(
    selections: Tensor,
    ratio: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    if_empty: float,
) -> Tensor:
    """Return the mean, over pairs of runs, of a ratio that is ``if_empty`` where it divides by 0.

    ``ratio`` maps |S_r ∩ S_s|, |S_r|, |S_s| to numerators and denominators. Raise `ValueError`
    unless ``selections`` is a bool matrix of at least two runs × rows.
    """
    if selections.dtype != torch.bool or selections.ndim != 2:
        raise ValueError(
            f"selections are a bool tensor of shape (runs, rows): got {selections.dtype} of "
            f"shape {tuple(selections.shape)}"
        )
    if len(selections) < 2:
        raise ValueError(
            f"stability compares runs, so it needs at least two: got {len(selections)}"
        )
    # A single product of matrices counts |S_r ∩ S_s| for all pairs, and |S_r| on its diagonal;
    # float32 would count exactly only up to 2²⁴ rows.
    selected = selections.double()
    common = selected @ selected.T
    sizes = common.diagonal()
    r, s = torch.triu_indices(len(selected), len(selected), offset=1, device=selected.device)
    numerator, denominator = ratio(common[r, s], sizes[r], sizes[s])
    return torch.where(denominator > 0, numerator / denominator, if_empty).mean()
