"""What a run draws for W&B besides its curves: the layers in which rows or positions became one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import plotly.graph_objects as go
import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lit_share.codebooks import RowReport, codebook_layers, dense_weight
from lit_share.lab.plots import cluster_map, position_filters
from lit_share.local import LocallyConnected1d, LocallyConnected2d
from lit_share.ties import Tie, unwrapped, unwrapped_name

# Of a deep network the first layers are drawn, and so many rows: a figure is 0.1 MB.
_MOST_LAYERS, _MOST_ROWS, _MOST_POSITIONS = 6, 120, 1024
_LOCAL = (LocallyConnected1d, LocallyConnected2d)


def weights_to_draw(loggers: Iterable[Logger], ties: Iterable[Tie]) -> dict[str, Tensor]:
    """Copies of the first members, by their names, where `log_clusters` will draw them."""
    return (
        {tie.members[0].name: _copied(tie.tensors()[0]) for tie in ties}
        if _wandb_of(loggers)
        else {}
    )


def log_clusters(
    loggers: Iterable[Logger],
    module: nn.Module,
    before: Mapping[str, Tensor],
    report: RowReport,
    step: int,
) -> None:
    """Log to W&B how alike the rows of codebook layers are, and were before, in the order of their clusters.

    Layers in which rows were dropped, but none became one, are left out.
    """
    clustered = {
        rows.name for rows in report if rows.replaced and 0 < rows.clusters < rows.rows - rows.zero
    }
    layers = {_weight_of(name): layer for name, layer in codebook_layers(module)}
    for name in [name for name in before if name in clustered][:_MOST_LAYERS]:
        after, labels = _copied(dense_weight(layers[name])), layers[name].assignment.tolist()
        figure = cluster_map(_rows(before[name]), _rows(after), labels, name, _MOST_ROWS)
        _log(loggers, f"clusters/{name}", figure, step)


def filters_to_draw(loggers: Iterable[Logger], module: nn.Module) -> dict[str, Tensor]:
    """Copies of the filters of locally connected layers, by their names, where `log_positions` will draw them."""
    layers = _locally_connected(module) if _wandb_of(loggers) else {}
    return {name: _copied(layer.weight) for name, layer in layers.items()}


def log_positions(
    loggers: Iterable[Logger], module: nn.Module, start: Mapping[str, Tensor], step: int
) -> None:
    """Log to W&B the largest filter of each locally connected layer at all its positions, before and after training.

    Layers that were shared meanwhile are left out: they have one filter.
    """
    for name, layer in _locally_connected(module).items() if start else ():
        end = _copied(layer.weight)
        if name not in start or not torch.isfinite(end).all():
            continue
        sizes = end.flatten(3).norm(dim=-1).sum(dim=0)
        output, input_ = divmod(int(sizes.argmax()), sizes.shape[1])
        flat = [1] * (
            2 - len(layer.output_size)
        )  # of one dimension: a row of positions, and filters of one row
        shape = (*flat, *layer.output_size, *flat, *layer.kernel_size)
        panels = {
            when: w[:, output, input_].reshape(shape)
            for when, w in (("start", start[name]), ("end", end))
        }
        figure = position_filters(panels, f"{name}, output {output}, input {input_}")
        _log(loggers, f"positions/{name}", figure, step)


def _locally_connected(module: nn.Module) -> dict[str, LocallyConnected1d | LocallyConnected2d]:
    """The locally connected layers that are drawn, by the names of their weights: those that are not in shards."""
    layers = [
        (name, layer)
        for name, layer in unwrapped(module).named_modules()
        if isinstance(layer, _LOCAL)
    ]
    drawn = {
        _weight_of(name): layer
        for name, layer in layers
        if layer.positions <= _MOST_POSITIONS and not isinstance(layer.weight, DTensor)
    }
    return dict(list(drawn.items())[:_MOST_LAYERS])


def _weight_of(layer: str) -> str:
    return unwrapped_name(f"{layer}.weight".lstrip("."))


def _rows(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).flatten(1)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


def _wandb_of(loggers: Iterable[Logger]) -> list[WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def _log(loggers: Iterable[Logger], name: str, figure: go.Figure, step: int) -> None:
    for logger in _wandb_of(loggers):
        logger.experiment.log({name: figure, "trainer/global_step": step})
