"""Domains: transforms of images that keep their labels and their shape.

Images have the shape `(..., height, width)` and values in `[0, 1]`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lit_share.lab.data._sources import Floats


def same(images: Floats) -> Floats:
    """Return the images unchanged.

    Example:
        >>> same(np.array([[[0.0, 0.25]]], np.float32))
        array([[[0.  , 0.25]]], dtype=float32)
    """
    return images


def rotated(images: Floats, degrees: float) -> Floats:
    """Rotate images counter-clockwise, with linear interpolation and zero padding.

    Example:
        >>> rotated(np.array([[[0, 1], [0, 0]]], np.float32), degrees=90)
        array([[[1., 0.],
                [0., 0.]]], dtype=float32)
    """
    # Splines of a higher order would overshoot [0, 1] at edges.
    result: Floats = ndimage.rotate(images, degrees, axes=(-2, -1), reshape=False, order=1)
    return result


def noisy(images: Floats, sigma: float, seed: int) -> Floats:
    """Add independent Gaussian noise to every pixel and clip the result to `[0, 1]`.

    Raises:
        ValueError: If `sigma`, the standard deviation, is negative.

    Example:
        >>> noisy(np.full((1, 1, 3), 0.5, np.float32), sigma=0.1, seed=0).round(2)
        array([[[0.61, 0.36, 0.46]]], dtype=float32)
    """
    if sigma < 0:
        raise ValueError(f"noise needs a standard deviation of at least 0, not {sigma}")
    noise = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    # `sigma` may be a NumPy float64, which would promote the images to float64.
    result: Floats = np.clip(images + np.float32(sigma) * noise, 0, 1)
    return result


def binarised(images: Floats, threshold: float) -> Floats:
    """Set pixels above the threshold to 1 and the others to 0.

    Example:
        >>> binarised(np.array([[[0.2, 0.7]]], np.float32), threshold=0.5)
        array([[[0., 1.]]], dtype=float32)
    """
    return (images > threshold).astype(np.float32)


def inverted(images: Floats) -> Floats:
    """Swap black and white.

    Example:
        >>> inverted(np.array([[[0.0, 0.25]]], np.float32))
        array([[[1.  , 0.75]]], dtype=float32)
    """
    return 1 - images


def mirrored(images: Floats) -> Floats:
    """Swap left and right.

    Example:
        >>> mirrored(np.array([[[0.0, 0.25]]], np.float32))
        array([[[0.25, 0.  ]]], dtype=float32)
    """
    # `torch.from_numpy` accepts no negative strides, hence the copy.
    result: Floats = images[..., ::-1].copy()
    return result


def permuted(images: Floats, seed: int) -> Floats:
    """Permute the pixels, with the same permutation for every image.

    Example:
        >>> permuted(np.array([[[0.1, 0.2, 0.3]], [[0.4, 0.5, 0.6]]], np.float32), seed=0)
        array([[[0.3, 0.1, 0.2]],
               [[0.6, 0.4, 0.5]]], dtype=float32)
    """
    pixels = images.reshape(*images.shape[:-2], -1)
    order = np.random.default_rng(seed).permutation(pixels.shape[-1])
    return pixels[..., order].reshape(images.shape)


@dataclass(frozen=True)
class Domain:
    """A transform of images, and whether it takes an `amount` and a `seed` after them.

    Args:
        function: Called with the images, then with the amount and the seed if it takes them.
        amount: The default amount; `None` if the function takes none.
        seeded: Whether the function takes a seed.

    Example:
        >>> DOMAINS["binarised"](np.array([[[0.2, 0.7]]], np.float32))
        array([[[0., 1.]]], dtype=float32)
    """

    function: Callable[..., Floats]
    amount: float | None = None
    seeded: bool = False

    def __call__(self, images: Floats, amount: float | None = None, seed: int = 0) -> Floats:
        """Transform images to this domain.

        Args:
            images: Shape `(..., height, width)`, values in `[0, 1]`.
            amount: The amount, if the function takes one; `None` for the default.
            seed: Seed of random transforms, at least 0.

        Returns:
            Images of the same shape.
        """
        arguments: list[float] = []
        if self.amount is not None:
            if amount is None:
                amount = self.amount
            arguments.append(amount)
        if self.seeded:
            arguments.append(seed)
        return self.function(images, *arguments)


DOMAINS = {
    "same": Domain(same),
    "rotated": Domain(rotated, amount=20.0),
    "noisy": Domain(noisy, amount=0.3, seeded=True),
    "binarised": Domain(binarised, amount=0.5),
    "inverted": Domain(inverted),
    "mirrored": Domain(mirrored),
    "permuted": Domain(permuted, seeded=True),
}
