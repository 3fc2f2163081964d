"""How stable the set of selected rows is between runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def index_change(selections: Tensor) -> Tensor:
    r"""The fraction of selected rows that change between two runs, averaged over all pairs of runs.

    With :math:`S_r` the set of rows that run r selects, and R runs,

    .. math::
        \frac{2}{R (R - 1)} \sum_{r < s} \frac{|S_r \mathbin{\triangle} S_s|}{|S_r| + |S_s|}

    where :math:`\triangle` is the symmetric difference. For runs that select equally many rows this is the share of one
    run's rows that the other does not have. A pair of empty selections counts as 0.

    Args:
        selections: Bool tensor of shape ``(runs, rows)`` with at least two runs.

    Returns:
        Float64 scalar in [0, 1]: 0 where all runs select the same rows, 1 where no two have a row in common.

    Raises:
        ValueError: If ``selections`` is not such a tensor.

    Example:
        Two of three rows stay; each run has one that the other has not:

        >>> index_change(torch.tensor([[True, True, True, False], [True, True, False, True]]))
        tensor(0.3333, dtype=torch.float64)

    Source:
        After the "percentage of index changes" in the experiment on MNIST of Zhang, Wang, Figueiredo, Balzano:
        *Learning to Share: Simultaneous Parameter Tying and Sparsification in Deep Learning*, ICLR 2018. Their
        published code does not compute it; this formula, one minus Sørensen's and Dice's coefficient, is how this
        package reads the words. Relative to the size of one selection alone, the symmetric difference would be about
        twice as much.
    """
    return _mean_over_pairs(
        selections,
        lambda common, size_r, size_s: (size_r + size_s - 2 * common, size_r + size_s),
        0.0,
    )


def jaccard(selections: Tensor) -> Tensor:
    r"""Jaccard's index of the rows that two runs select, averaged over all pairs of runs.

    .. math::
        \frac{2}{R (R - 1)} \sum_{r < s} \frac{|S_r \cap S_s|}{|S_r \cup S_s|}

    A pair of empty selections counts as 1.

    Args:
        selections: Bool tensor of shape ``(runs, rows)`` with at least two runs.

    Returns:
        Float64 scalar in [0, 1]: 1 where all runs select the same rows, 0 where no two have a row in common.

    Raises:
        ValueError: If ``selections`` is not such a tensor.

    Example:
        >>> jaccard(torch.tensor([[True, True, True, False], [True, True, False, True]]))
        tensor(0.5000, dtype=torch.float64)
    """
    return _mean_over_pairs(
        selections, lambda common, size_r, size_s: (common, size_r + size_s - common), 1.0
    )


class SelectionStability(Metric):
    """How stable the set of selected (non-zero) rows is between runs: `index_change` and `jaccard`.

    One `update` is one run; the rows of a layer after training with ``groups="input"`` are
    ``(weight != 0).any(dim=0)``, before `lit_share.tie_rows`; those of a codebook layer are ``assignment >= 0``.
    Calling the metric itself compares the runs of one batch and therefore raises: use `update` and `compute`.

    Args:
        **kwargs: For `torchmetrics.Metric`.

    Example:
        >>> stability = SelectionStability()
        >>> stability.update(torch.tensor([True, True, True, False]))
        >>> stability.update(torch.tensor([True, True, False, True]))
        >>> {name: round(float(value), 2) for name, value in stability.compute().items()}
        {'index_change': 0.33, 'jaccard': 0.5}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    selected: list[Tensor] | Tensor
    runs: Tensor
    rows: Tensor

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        # Flat and of the metric's dtype, because that is what torchmetrics puts in for a process that had no run.
        self.add_state("selected", [], dist_reduce_fx="cat")
        self.add_state("runs", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.long), dist_reduce_fx="max")

    def update(self, selected: Tensor) -> None:
        """Take in one run.

        Args:
            selected: Bool tensor of shape ``(rows,)``: which rows the run selected.

        Raises:
            ValueError: If it is not such a tensor, or has other than the earlier runs' number of rows.
        """
        if selected.dtype != torch.bool or selected.ndim != 1:
            raise ValueError(
                "a selection is a bool tensor of shape (rows,), for instance (weight != 0).any(dim=0): got "
                f"{selected.dtype} of shape {tuple(selected.shape)}"
            )
        if self.runs > 0 and self.rows != len(selected):
            raise ValueError(
                f"all runs select from the same rows: got {len(selected)} rows after runs with {int(self.rows)}"
            )
        assert isinstance(self.selected, list)
        self.selected.append(selected.to(self.dtype))
        self.runs += 1
        self.rows.fill_(len(selected))

    def compute(self) -> dict[str, Tensor]:
        """``index_change`` and ``jaccard``, by name.

        Raises:
            ValueError: If there were fewer than two runs, or processes had different numbers of rows.
        """
        flat = dim_zero_cat(self.selected) if len(self.selected) else torch.zeros(0)
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
    """The mean over pairs of runs of numerator / denominator, which are functions of |S_r ∩ S_s|, |S_r| and |S_s|."""
    if selections.dtype != torch.bool or selections.ndim != 2:
        raise ValueError(
            f"selections are a bool tensor of shape (runs, rows): got {selections.dtype} of shape "
            f"{tuple(selections.shape)}"
        )
    if len(selections) < 2:
        raise ValueError(
            f"stability compares runs, so it needs at least two: got {len(selections)}"
        )
    members = selections.double()
    common = members @ members.T
    sizes = common.diagonal()
    r, s = torch.triu_indices(len(members), len(members), offset=1, device=members.device)
    numerator, denominator = ratio(common[r, s], sizes[r], sizes[s])
    return torch.where(denominator > 0, numerator / denominator, if_empty).mean()
