"""Shapes of parameters that people train."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.speed._clock import DEVICE

Shape = tuple[int, ...]


def mlp() -> list[Shape]:
    """784-300-100-10: 266,610 numbers in 6 tensors."""
    return _shapes(nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)))


def resnet18() -> list[Shape]:
    """ResNet-18 with 1000 classes: 11.7 million numbers in 62 tensors."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            shapes += [
                (width, channels, 3, 3),
                (width,),
                (width,),
                (width, width, 3, 3),
                (width,),
                (width,),
            ]
            if stage and not block:
                shapes += [(width, channels, 1, 1), (width,), (width,)]
            channels = width
    return [*shapes, (1000, 512), (1000,)]


def encoder() -> list[Shape]:
    """Eight layers of a transformer, a norm and a head: 25 million numbers in 100 tensors."""
    layer = nn.TransformerEncoderLayer(512, 8, 2048, device="meta")
    layers = nn.TransformerEncoder(
        layer, 8, nn.LayerNorm(512, device="meta"), enable_nested_tensor=False
    )
    return _shapes(nn.ModuleList([layers, nn.Linear(512, 10, device="meta")]))


def vgg16() -> nn.Sequential:
    """VGG-16 for images of 224 × 224: 138 million numbers."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [
        nn.Flatten(),
        nn.Linear(25088, 4096),
        nn.ReLU(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 1000),
    ]
    return nn.Sequential(*layers, *head)


MODELS = {"MLP 784-300-100-10": mlp, "ResNet-18": resnet18, "encoder, 25 M": encoder}


def pair(shapes: list[Shape]) -> nn.ModuleDict:
    """Make two models, "a" and "b", with a parameter and a gradient of zeros for each shape."""
    models = {
        name: nn.ParameterList([torch.randn(shape, device=DEVICE) for shape in shapes])
        for name in "ab"
    }
    for parameters in models.values():
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
    return nn.ModuleDict(models)


def _shapes(module: nn.Module) -> list[Shape]:
    return [tuple(parameter.shape) for parameter in module.parameters()]
