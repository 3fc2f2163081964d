"""Launch the compiled loops on ties along edges.

They take each group of a tie from memory twice: for its Gram matrix, and to combine the members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lit_share.functional._duals import Clusters, solve_duals
from lit_share.functional._edges import Star
from lit_share.functional._fused import FusedLoops, Jobs, Layout, is_loopable
from lit_share.functional._fusion import from_near_member
from lit_share.functional._star import solve_star
from lit_share.functional._tie_tensors import TieTensors

if TYPE_CHECKING:
    from lit_share.functional._penalty import Penalty


def is_fusable_graph(penalty: Penalty, tie: TieTensors) -> bool:
    """Whether the loops support the proximal step of a tie along edges."""
    if tie.inside or not (penalty.centering.has_edges and penalty.omega.soft_threshold):
        return False
    ndim = len(tie.shape)
    # Pairs and single elements have steps of their own. Columns are not segments of memory.
    if len(tie.members) == 2 or penalty.grouping.is_elementwise(ndim):
        return False
    if Layout.of(penalty, tie.shape).outer > 1:
        return False
    if tie.shard is not None and penalty.needs_other_shards(ndim, tie.shard.dim):
        return False
    has_aliases = len({tensor.data_ptr() for tensor in tie.members}) < len(tie.members)
    return is_loopable(tie.members) and not has_aliases


class FusedGraphProx(FusedLoops):
    """The proximal step of ties that `is_fusable_graph` supports, of one dtype and member count.

    Args:
        penalty: The penalty.
        ties: The ties; their members must stay the same tensors.
    """

    def __init__(self, penalty: Penalty, ties: Sequence[TieTensors]) -> None:
        self.penalty, self.ties = penalty, list(ties)
        self.layouts = [Layout.of(penalty, tie.shape) for tie in ties]
        # A whole tensor is one group, and each of its jobs a piece of that.
        self.is_whole = [layout.groups == 1 for layout in self.layouts]
        widths = [self._width(tie) for tie in range(len(ties))]
        self.widths = np.array(widths, np.int64)
        self.most = np.where(self.is_whole, np.iinfo(np.int32).max, 1).astype(np.int64)
        super().__init__([tie.members for tie in ties])

    def _width(self, tie: int) -> int:
        if self.is_whole[tie]:
            return 1
        return self.layouts[tie].inner

    def _jobs(self) -> Jobs:
        """Return ranges of segments, or of the elements of whole tensors."""
        lengths = [layout.groups * layout.inner for layout in self.layouts]
        lengths = [length // int(w) for length, w in zip(lengths, self.widths, strict=True)]
        jobs = Jobs(lengths, self.widths)
        ties = jobs.all[:, 0]
        # The Gram matrices of whole tensors are computed in pieces, a job each.
        counts = np.where(np.array(self.is_whole)[ties], 1, jobs.all[:, 2])
        self.pieces = np.cumsum(counts) - counts
        self.ends = np.cumsum([counts[ties == tie].sum() for tie in range(len(lengths))])
        # Groups are numbered over all ties.
        groups = np.array([layout.groups for layout in self.layouts])
        starts = np.cumsum(groups) - groups
        begins = np.where(np.array(self.is_whole)[ties], 0, jobs.all[:, 1])
        self.groups = starts[ties] + begins
        return jobs

    def take(self) -> None:
        """Take the step of all ties; members of step 0 do not move."""
        count = len(self.ties[0].members)
        sizes = (self.first, self.widths, self.most)
        gram = np.empty((int(self.ends[-1]), count, count))
        self.run("gram_of_pieces", self.jobs, *sizes, self.pieces, gram)
        clusters: list[Clusters] = []
        written: list[Tensor] = []
        pieces = np.split(gram, self.ends[:-1])
        for tie, own, is_whole in zip(self.ties, pieces, self.is_whole, strict=True):
            if is_whole:
                own = own.sum(axis=0, keepdims=True)
            clusters.append(self._solve(tie, torch.from_numpy(own)))
            written += [w for w, t in zip(tie.members, tie.steps, strict=True) if t > 0.0]
        moves = torch.cat([own.moves for own in clusters]).numpy()
        leaders = torch.cat([own.leaders for own in clusters]).numpy()
        steps = np.array([t for tie in self.ties for t in tie.steps])
        arguments = (*sizes, self.groups, steps, moves, leaders)
        self.run("combine_pieces", self.jobs, *arguments)
        # Torch does not see these writes, but autograd must know that saved tensors changed.
        increment_version(written)

    def _solve(self, tie: TieTensors, gram: Tensor) -> Clusters:
        graph = self.penalty.graph_of(tie)
        if isinstance(graph, Star):
            near = from_near_member(gram, tie.members, self.penalty.grouping)
            return solve_star(near, graph, tie.steps)
        graph = graph.moving(tie.steps)
        if graph.pairs:
            return solve_duals(gram, graph, tie.steps)
        # Nothing pulls, so each member leads itself.
        leaders = torch.arange(len(tie.members)).repeat(len(gram), 1)
        return Clusters(torch.zeros_like(gram), leaders)
