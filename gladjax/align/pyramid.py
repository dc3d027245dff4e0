"""Grey images at several resolutions, smoothed and differentiated alike.

Motion is found on grey images, from coarse to fine. A gradient scheme is a pair of
one-dimensional filters, smoothing ``k`` and differentiating ``d``; the derivative by x
is ``d`` along x and ``k`` along y. Such a derivative belongs to the image smoothed by
``k`` along both axes, so both images are smoothed by ``k`` before they are compared.

Notation: level ``l`` has a pixel for every ``2^l``-th pixel of the image in each
direction, and ``x_l = x / 2^l``: any size can be halved, and no level is shifted. A
scheme of even length is shifted by half a pixel (``shift``), in both images alike.

Differs from the reference in: (1) levels shrink by exactly two.

References: Briand, Facciolo, Sanchez, IPOL 8, 2018, section 3; Farid, Simoncelli.
"Differentiation of Discrete Multidimensional Signals". IEEE Trans. Image Processing
13(4), 2004, table 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

__all__ = ["SCHEMES", "Scheme", "build", "find", "gradient", "grey", "smooth"]

Grey = Float[Array, "h w"]


class Scheme(NamedTuple):
    """Filters as they are laid over the image, and the shift of their middle."""

    k: tuple[float, ...]
    d: tuple[float, ...]
    shift: float


_FARID3 = (0.229879, 0.540242, 0.229879), (-0.425287, 0.0, 0.425287)
_FARID5 = (
    (0.037659, 0.249153, 0.426375, 0.249153, 0.037659),
    (-0.109604, -0.276691, 0.0, 0.276691, 0.109604),
)
SCHEMES = {
    "central": Scheme((1.0,), (-0.5, 0.0, 0.5), 0.0),
    "hypomode": Scheme((0.5, 0.5), (-1.0, 1.0), 0.5),
    "farid3": Scheme(*_FARID3, 0.0),
    "farid5": Scheme(*_FARID5, 0.0),
}
# Standard deviation that removes what a grid of half the density cannot carry.
_SIGMA = 0.6 * 3**0.5
_GAUSS = np.exp(-0.5 * np.square(np.arange(-4, 5) / _SIGMA))


def find(gradient: str) -> Scheme:
    """Returns a gradient scheme by name.

    Raises:
      ValueError: If there is no such scheme; the message lists them.
    """
    if gradient not in SCHEMES:
        names = ", ".join(SCHEMES)
        raise ValueError(f"gradient must be one of {names}, got {gradient!r}")
    return SCHEMES[gradient]


def grey(image: Float[Array, "h w *c"]) -> Grey:
    """Returns the mean of the channels of an image, 0 to 255."""
    return image if image.ndim == 2 else jnp.mean(image, axis=-1)


def _correlate(image: Grey, taps: tuple[float, ...], axis: int) -> Grey:
    """Returns ``sum_j taps[j] image[i + j - r]`` along an axis, borders repeated."""
    left = (len(taps) - 1) // 2
    width = [(0, 0), (0, 0)]
    width[axis] = (left, len(taps) - 1 - left)
    padded = jnp.pad(image, width, mode="edge")
    side = image.shape[axis]
    total = jnp.zeros_like(image)
    for j, tap in enumerate(taps):
        if tap:
            part = (slice(None),) * axis + (slice(j, j + side),)
            total += tap * padded[part]
    return total


def smooth(image: Grey, scheme: Scheme) -> Grey:
    """Returns an image smoothed by ``k`` along both axes."""
    return _correlate(_correlate(image, scheme.k, 0), scheme.k, 1)


def gradient(image: Grey, scheme: Scheme) -> tuple[Grey, Grey]:
    """Returns the derivatives by x and by y, in grey levels per pixel."""
    by_x = _correlate(_correlate(image, scheme.k, 0), scheme.d, 1)
    by_y = _correlate(_correlate(image, scheme.d, 0), scheme.k, 1)
    return by_x, by_y


def build(image: Grey, num_levels: int) -> list[Float[Array, "_ _"]]:
    """Returns an image and its halvings, finest first.

    Args:
      image: The image.
      num_levels: How many, at least one.

    Returns:
      The levels; level ``l`` has ``ceil(h / 2^l)`` rows.

    References:
      Briand et al., section 2.3, for the standard deviation.
    """
    taps = tuple(float(v) for v in _GAUSS / _GAUSS.sum())
    levels = [image]
    for _ in range(num_levels - 1):
        blurred = _correlate(_correlate(levels[-1], taps, 0), taps, 1)
        levels.append(blurred[::2, ::2])
    return levels
