"""Give units the statistics that they had before their weights were averaged."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lit_share.alignment._align import check_dense, member_names
from lit_share.alignment._batches import Batches, call_each, check_loader
from lit_share.alignment._errors import AlignError
from lit_share.alignment._moments import Moments
from lit_share.alignment._normalization import check_batches, estimate, normalizations
from lit_share.ties import Ties, as_ties, parameter_refs, unwrapped

# Statistics that differ by less than this, relative to their size, need no repair.
_TOLERANCE = 1e-6

# The statistics of layers, by their names in the members and by the members' names.
_Statistics = dict[str, dict[str, Moments]]
_Layer = nn.Linear | _ConvNd


@contextmanager
def repair(
    module: nn.Module,
    ties: Ties | Sequence[str],
    loader: Batches,
    passes: int | None = None,
) -> Iterator[None]:
    r"""Give units the statistics that they had before submodules were merged.

    The average of weights that are not equal makes outputs that vary less than those of either, so
    that signals fade from layer to layer. Merge submodules within this context, by `share` or by
    hand. When it closes, the outputs z of each unit of a linear or convolutional layer are changed

    .. math::
        z \to s (z - \mu) + \bar\mu, \qquad s = \bar\sigma / \sigma

    from their mean :math:`\mu` and standard deviation :math:`\sigma` over all samples, sites and
    steps to :math:`\bar\mu` and :math:`\bar\sigma`, those that the unit had before. This becomes
    part of weight and bias, w → s w and b → s b + :math:`\bar\mu` − s μ. Layers of one name in
    several members whose weights are equal now, as one Parameter or in value, have one s, and
    equal biases stay equal: all statistics are means over these members then. Layers are repaired
    in the order of the forward, and each is measured when those before it are repaired, so after
    merging, the loader is read up to once per layer. Merging equal members changes nothing.

    Members with batch normalization that tracks statistics are not changed in this way: the
    statistics of their normalization are estimated anew, in one reading of the loader.

    These stay as they are: units that do not vary, except for their mean; means of layers without
    bias; layers whose weight has other names too, such as an output layer tied to an embedding, or
    is computed, as by a parametrization; and layers of other kinds, such as `torch.nn.LSTM` and the
    projections of `torch.nn.MultiheadAttention`. If an error is raised within the context, nothing
    is repaired.

    Args:
        module: The module that holds the members. Its parameters are changed in place.
        ties: The ties, or a list of patterns for `Ties`. The members are the submodules before the
            first star of each pattern, as for `align`.
        loader: Batches of what the submodules are called with, as the ``inputs`` of `align`: a list
            or a `torch.utils.data.DataLoader`, on the devices of the submodules.
        passes: How often the loader may be read after merging; ``None`` for as often as it takes.
            If layers are left in the last pass, the outputs of each are normalized by their batch
            there, so that later ones have nearly repaired inputs. Then statistics are exact with a
            single batch, and near with large ones.

    Yields:
        Nothing.

    Raises:
        AlignError: If the loader is empty, can be read only once or has other inputs than the
            submodules take, if these are sharded, or if outputs are not finite. Before submodules
            are merged, except for outputs that are not finite after it.
        TieError: If the patterns do not fit the module; see `Ties.find`.

    Example:
        >>> import lit_share as ls
        >>> def net():
        ...     return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> pair, ties = nn.ModuleDict({"a": net(), "b": net()}), Ties("a.*", "b.*")
        >>> batches = [torch.randn(8, 4) for _ in range(5)]
        >>> x = torch.cat(batches)
        >>> before = (pair["a"](x).std(0) + pair["b"](x).std(0)) / 2
        >>> with repair(pair, ties, batches):
        ...     shared = ls.share(pair, ties)
        >>> torch.allclose(pair["a"](x).std(0), before, atol=1e-5)
        True

    Source: Jordan, Sedghi, Saukh, Entezari, Neyshabur: *REPAIR: REnormalizing Permuted Activations
    for Interpolation Repair*, ICLR 2023.
    """
    if passes is not None and passes < 1:
        raise AlignError(f"passes must be at least 1, or None, got {passes}")
    ties = as_ties(ties)
    ties.find(module)
    module = unwrapped(module)
    names = member_names(ties)
    check_loader(loader)
    for name in names:
        check_dense(name, module.get_submodule(name))
    plain, normalized = _members(module, names)
    before: _Statistics = {}
    if plain:
        before = _measure(plain, loader)
    if normalized:
        check_batches(normalized, loader)
    yield
    # Submodules and layers may be others now.
    plain, normalized = _members(module, names)
    if plain:
        _restore(module, plain, before, loader, passes)
    if normalized:
        estimate(normalized, loader)


def _members(
    module: nn.Module, names: Sequence[str]
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Return the members without batch normalization, and those with it."""
    plain: dict[str, nn.Module] = {}
    normalized: dict[str, nn.Module] = {}
    for name in names:
        member = module.get_submodule(name)
        if normalizations(member):
            normalized[name] = member
        else:
            plain[name] = member
    return plain, normalized


def _measure(
    members: Mapping[str, nn.Module],
    loader: Batches,
    layers: Container[str] | None = None,
    targets: Mapping[str, Mapping[str, _Target]] | None = None,
) -> _Statistics:
    """Return the statistics of the outputs of layers, in the order in which they are called.

    Args:
        members: The members by name.
        loader: Batches of their inputs.
        layers: The names of the layers in the members; ``None`` for all.
        targets: Statistics that outputs are given in each batch, once they are measured.
    """
    found: _Statistics = {}

    def note(member: str, name: str, layer: nn.Module, _: object, outputs: object) -> Tensor | None:
        # A batch may be empty, and subclasses may return more.
        if not isinstance(outputs, Tensor) or outputs.numel() == 0:
            return None
        dim = _dim(layer)
        found.setdefault(name, {}).setdefault(member, Moments()).add(outputs, dim)
        if targets is None:
            return None
        return targets[name][member].given_to(outputs, dim)

    @contextmanager
    def around(member: str) -> Iterator[None]:
        with ExitStack() as stack:
            for name, layer in _layers(members[member]):
                if layers is None or name in layers:
                    # Members may have a layer in common, so hooks stay for one call.
                    hook = layer.register_forward_hook(partial(note, member, name))
                    stack.enter_context(hook)
            yield

    call_each(members, loader, around)
    for name, own in found.items():
        for member, moments in own.items():
            if not (moments.mean.isfinite() & moments.variance().isfinite()).all():
                raise AlignError(f"'{member}.{name}' has outputs that are not finite")
    return found


def _layers(member: nn.Module) -> Iterator[tuple[str, _Layer]]:
    for name, layer in member.named_modules():
        if isinstance(layer, _Layer):
            yield name, layer


def _dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's outputs that its units are along."""
    if isinstance(layer, _ConvNd):
        return -1 - len(layer.kernel_size)
    return -1


def _restore(
    module: nn.Module,
    members: Mapping[str, nn.Module],
    before: _Statistics,
    loader: Batches,
    passes: int | None,
) -> None:
    """Give layers the statistics from before, one after the other."""
    left = _repairable(module, members, before)
    for reading in count(1):
        if not left:
            return
        targets = None
        if reading == passes:
            targets = {name: _targets(layers, before[name]) for name, layers in left.items()}
        now = _measure(members, loader, left, targets)
        # The first layer that changes changes the inputs of those after it.
        for name, statistics in now.items():
            layers = left.pop(name)
            called = {member: layers[member] for member in statistics}
            change = _change(called, before[name], statistics)
            if change.is_needed:
                change.apply()
                if targets is None:
                    break
        left = {name: layers for name, layers in left.items() if name in now}


def _repairable(
    module: nn.Module, members: Mapping[str, nn.Module], before: _Statistics
) -> dict[str, dict[str, _Layer]]:
    """Return layers of which all parameters are their own, by name and member."""
    found: dict[str, dict[str, _Layer]] = {}
    for member, submodule in members.items():
        for name, layer in _layers(submodule):
            known = before.get(name, {})
            # Layers may have been replaced by others.
            if member in known and known[member].mean.shape == (_units(layer),):
                found.setdefault(name, {})[member] = layer
    owners: dict[int, set[int]] = {}
    for ref in parameter_refs(module):
        owners.setdefault(id(ref.parameter), set()).add(id(ref.owner))
    return {name: layers for name, layers in found.items() if _are_own(layers.values(), owners)}


def _are_own(layers: Collection[_Layer], owners: Mapping[int, set[int]]) -> bool:
    """Whether weights and biases are stored in these layers, and in no others."""
    own = {id(layer) for layer in layers}
    for layer in layers:
        stored = dict(layer.named_parameters(recurse=False))
        for name, parameter in (("weight", layer.weight), ("bias", layer.bias)):
            if stored.get(name) is not parameter:
                return False
            if parameter is not None and not owners[id(parameter)] <= own:
                return False
    return True


def _units(layer: _Layer) -> int:
    if isinstance(layer, _ConvNd):
        return layer.out_channels
    return layer.out_features


class _Target(NamedTuple):
    """The statistics that the units of a layer are given; no mean for layers without bias."""

    mean: Tensor | None
    deviation: Tensor

    def given_to(self, outputs: Tensor, dim: int) -> Tensor:
        """Return the outputs of one batch with these statistics."""
        batch = Moments()
        batch.add(outputs, dim)
        scale = _scale(self.deviation, batch.deviation())
        shift = torch.zeros_like(scale)
        if self.mean is not None:
            shift = self.mean - scale * batch.mean
        shape = [-1] + [1] * (-1 - dim)
        return (outputs * scale.view(shape) + shift.view(shape)).to(outputs.dtype)


def _targets(layers: Mapping[str, _Layer], before: Mapping[str, Moments]) -> dict[str, _Target]:
    """Return the means over members with equal weights, and with equal biases, by member."""
    means: dict[str, Tensor] = {}
    for group in _equal(_biases(layers)):
        mean = _mean([before[member].mean for member in group])
        means |= dict.fromkeys(group, mean)
    targets: dict[str, _Target] = {}
    for group in _equal(_weights(layers)):
        deviation = _mean([before[member].deviation() for member in group])
        targets |= {member: _Target(means.get(member), deviation) for member in group}
    return targets


@dataclass
class _Change:
    """New values of the parameters of layers that have one name in several members."""

    values: dict[Tensor, Tensor]
    is_needed: bool = False

    @torch.no_grad()
    def apply(self) -> None:
        for parameter, value in self.values.items():
            parameter.copy_(value)
        torch.clear_autocast_cache()


@torch.no_grad()
def _change(
    layers: Mapping[str, _Layer], before: Mapping[str, Moments], now: Mapping[str, Moments]
) -> _Change:
    r"""Return the weights and biases with which the statistics are those from before.

    Members m with equal weights have one scale :math:`s = \sum_m \bar\sigma_m / \sum_m \sigma_m`;
    those with equal biases have the mean of :math:`\bar\mu_m - s_m (\mu_m - b_m)`.
    """
    change = _Change({})
    scales: dict[str, Tensor] = {}
    for group in _equal(_weights(layers)):
        target = _mean([before[member].deviation() for member in group])
        own = _mean([now[member].deviation() for member in group])
        scale = _scale(target, own)
        change.is_needed |= bool(((scale - 1.0).abs() > _TOLERANCE).any())
        for member in group:
            scales[member] = scale
            layer = layers[member]
            change.values[layer.weight] = _scaled(layer, scale)
    biases = _biases(layers)
    for group in _equal(biases):
        bias = biases[group[0]].double()
        value = _mean([before[m].mean - scales[m] * (now[m].mean - bias) for m in group])
        size = _mean([before[m].deviation() + before[m].mean.abs() for m in group])
        change.is_needed |= bool(((value - bias).abs() > _TOLERANCE * size).any())
        for member in group:
            change.values[biases[member]] = value
    return change


def _weights(layers: Mapping[str, _Layer]) -> dict[str, Tensor]:
    return {member: layer.weight for member, layer in layers.items()}


def _biases(layers: Mapping[str, _Layer]) -> dict[str, Tensor]:
    return {member: layer.bias for member, layer in layers.items() if layer.bias is not None}


def _scale(target: Tensor, own: Tensor) -> Tensor:
    """Return the quotient of two deviations."""
    # A unit that does not vary cannot be scaled, and the weights of one that did not would be lost.
    return torch.where((own > 0) & (target > 0), target / own, 1.0)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


def _equal(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names of equal tensors, as lists."""
    groups: list[list[str]] = []
    for name, tensor in tensors.items():
        for group in groups:
            if _are_equal(tensors[group[0]], tensor):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _are_equal(x: Tensor, y: Tensor) -> bool:
    return x is y or (x.device == y.device and x.dtype == y.dtype and torch.equal(x, y))


def _scaled(layer: _Layer, scale: Tensor) -> Tensor:
    """Return the weight, in float64, with which the outputs of a layer are scaled."""
    weight = layer.weight.double()
    if isinstance(layer, _ConvTransposeNd):
        # Its weight is of shape (in, out / groups, …), where inputs are in the order of the groups.
        groups = layer.groups
        scale = scale.view(groups, 1, -1).expand(-1, layer.in_channels // groups, -1).flatten(0, 1)
        return weight * scale.view(*scale.shape, *[1] * len(layer.kernel_size))
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))
