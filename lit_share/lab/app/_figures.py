"""Figures that a run logs to W&B: clusters of rows, and filters at each position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import plotly.graph_objects as go
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from lit_share.codebooks import RowReport, codebook_layers, dense_weight
from lit_share.lab.plots import cluster_map, position_filters
from lit_share.lightnings import is_a
from lit_share.local import LocallyConnected1d, LocallyConnected2d
from lit_share.ties import Tie, is_dtensor, unwrapped, unwrapped_name

# Only the first layers of a deep network are drawn, and only a part of their rows, because a
# figure takes 0.1 MB.
_MOST_LAYERS, _MOST_ROWS, _MOST_POSITIONS = 6, 120, 1024
_LOCAL = (LocallyConnected1d, LocallyConnected2d)


def weights_to_draw(loggers: Iterable[Logger], ties: Iterable[Tie]) -> dict[str, Tensor]:
    """Copy the first member of each tie for `log_clusters`, by name; without W&B, copy nothing."""
    if not _wandb_of(loggers):
        return {}
    return {tie.members[0].name: _copied(tie.tensors()[0]) for tie in ties}


def log_clusters(
    loggers: Iterable[Logger],
    module: nn.Module,
    before: Mapping[str, Tensor],
    report: RowReport,
    step: int,
) -> None:
    """Log to W&B how similar the rows of codebook layers are, before and after clustering.

    Layers in which rows were dropped, but no two rows were made equal, are left out.
    """
    clustered = set()
    for rows in report:
        if rows.replaced and 0 < rows.clusters < rows.rows - rows.zero:
            clustered.add(rows.name)
    layers = {_weight_of(name): layer for name, layer in codebook_layers(module)}
    for name in [name for name in before if name in clustered][:_MOST_LAYERS]:
        after, labels = _copied(dense_weight(layers[name])), layers[name].assignment.tolist()
        figure = cluster_map(_rows(before[name]), _rows(after), labels, name, _MOST_ROWS)
        _log(loggers, f"clusters/{name}", figure, step)


def filters_to_draw(loggers: Iterable[Logger], module: nn.Module) -> dict[str, Tensor]:
    """Copy locally connected layers' filters for `log_positions`; without W&B, copy nothing."""
    if not _wandb_of(loggers):
        return {}
    return {name: _copied(layer.weight) for name, layer in _locally_connected(module).items()}


def log_positions(
    loggers: Iterable[Logger], module: nn.Module, start: Mapping[str, Tensor], step: int
) -> None:
    """Log to W&B the largest filter of each locally connected layer at all positions.

    The figure compares the filters before and after training. Layers whose positions are shared by
    then are left out: they have a single filter.
    """
    if not start:
        return
    for name, layer in _locally_connected(module).items():
        end = _copied(layer.weight)
        if name not in start or not torch.isfinite(end).all():
            continue
        sizes = end.flatten(3).norm(dim=-1).sum(dim=0)
        output, input_ = divmod(int(sizes.argmax()), sizes.shape[1])
        # A layer of one dimension is drawn as a line of positions, with filters one line high.
        flat = [1] * (2 - len(layer.output_size))
        shape = (*flat, *layer.output_size, *flat, *layer.kernel_size)
        panels = {
            "start": start[name][:, output, input_].reshape(shape),
            "end": end[:, output, input_].reshape(shape),
        }
        figure = position_filters(panels, f"{name}, output {output}, input {input_}")
        _log(loggers, f"positions/{name}", figure, step)


def _locally_connected(module: nn.Module) -> dict[str, LocallyConnected1d | LocallyConnected2d]:
    """Return the first small locally connected layers, without sharded ones, by weights' names."""
    drawn: dict[str, LocallyConnected1d | LocallyConnected2d] = {}
    for name, layer in unwrapped(module).named_modules():
        if not isinstance(layer, _LOCAL) or len(drawn) == _MOST_LAYERS:
            continue
        # A sharded weight has only some of its positions on this rank.
        if layer.positions <= _MOST_POSITIONS and not is_dtensor(layer.weight):
            drawn[_weight_of(name)] = layer
    return drawn


def _weight_of(layer: str) -> str:
    # The name of the root module is empty.
    return unwrapped_name(f"{layer}.weight".lstrip("."))


def _rows(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).flatten(1)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _wandb_of(loggers: Iterable[Logger]) -> list[Any]:
    return [logger for logger in loggers if is_a(logger, "WandbLogger")]


def _log(loggers: Iterable[Logger], name: str, figure: go.Figure, step: int) -> None:
    for logger in _wandb_of(loggers):
        logger.experiment.log({name: figure, "trainer/global_step": step})
