"""Coarse search: any turn and a large shift, before the refinement.

The reference is turned to angles all around; each turned copy is correlated with the
image over all shifts at once, by FFT. The score is the normalised correlation on the
pixels that both show, so that neither brightness nor the corners that a turn uncovers
matter. The best angles are starts for the refinement; which of them is right, the
refinement decides.

Notation: ``m`` and ``R`` are the mask and the reference turned by ``theta``, ``I`` the
image, all on one coarse level; a lag ``n`` counts pixels from the corner of the turned
reference to the corner of the image.

Differs from the reference in: (1) the paper's alignment starts from the identity; this
search is ours.

Reference: Padfield. "Masked Object Registration in the Fourier Domain". IEEE Trans.
Image Processing 21(5), 2012, Eqs. 12 to 14, with a mask on one side.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Complex, Float, Num

from gladjax import programs
from gladjax.align import pyramid, sampling, transform

__all__ = ["Turned", "coarse_search", "search", "turn"]

AnyArray = Array | np.ndarray


class Turned(NamedTuple):
    """Spectra and sums of the turned reference, computed once."""

    angles: Float[Array, " a"]
    masks: Complex[Array, "a s f"]
    values: Complex[Array, "a s f"]
    number: Float[Array, "a v u"]
    total: Float[Array, "a v u"]
    squares: Float[Array, "a v u"]
    mean: Float[Array, ""]


class _Geometry(NamedTuple):
    """Sizes: side of the turned canvas, of the FFT, and the lags looked at."""

    canvas: int
    fft: int
    lags: tuple[np.ndarray, np.ndarray]


def _geometry(
    reference: tuple[int, ...], image: tuple[int, ...], max_shift: float
) -> _Geometry:
    """Returns sizes such that no lag looked at wraps around."""
    canvas = math.ceil(math.hypot(*reference)) + 1
    reach = math.ceil(max_shift * max(image))
    fft = (canvas + max(image)) // 2 + reach + 2
    fft = 16 * math.ceil(fft / 16)
    middle = [round((side - canvas) / 2) for side in image]
    lags = tuple(np.arange(m - reach, m + reach + 1) for m in middle)
    return _Geometry(canvas, fft, (lags[0], lags[1]))


def _correlate(spectra: Array, image: Array, geometry: _Geometry) -> Array:
    """Returns ``sum_i turned(i) image(i + n)`` for the lags looked at."""
    side = geometry.fft
    product = jnp.conj(spectra) * jnp.fft.rfft2(image, s=(side, side))[None]
    full = jnp.fft.irfft2(product, s=(side, side))
    rows, columns = (lags % side for lags in geometry.lags)
    return full[:, rows[:, None], columns[None, :]]


def turn(
    reference: Float[Array, "h w"],
    mask: Bool[Array, "h w"],
    image_shape: tuple[int, ...],
    *,
    num_angles: int = 72,
    max_shift: float = 0.25,
) -> Turned:
    """Returns the turned reference, ready to be found in images of one size.

    Args:
      reference: A coarse level of the reference, grey.
      mask: Pixels that count.
      image_shape: Height and width of the same level of the images.
      num_angles: How many angles share the full turn.
      max_shift: Largest shift of the centre, as a fraction of the longer side.

    Returns:
      The spectra of mask and values for each angle, and the sums that do not depend
      on the image.
    """
    geometry = _geometry(reference.shape, image_shape, max_shift)
    dtype = reference.dtype
    h, w = reference.shape
    mean = jnp.sum(jnp.where(mask, reference, 0)) / jnp.maximum(
        jnp.sum(mask.astype(dtype)), 1
    )
    values = jnp.where(mask, reference - mean, 0)
    angles = jnp.arange(num_angles).astype(dtype) * (2 * math.pi / num_angles)
    offset = jnp.arange(geometry.canvas).astype(dtype) - (geometry.canvas - 1) / 2
    v, u = (a.ravel() for a in jnp.meshgrid(offset, offset, indexing="ij"))

    def one(theta: Array) -> tuple[Array, Array]:
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        x = cos * u + sin * v + (w - 1) / 2
        y = cos * v - sin * u + (h - 1) / 2
        near = jnp.clip(jnp.round(x), 0, w - 1), jnp.clip(jnp.round(y), 0, h - 1)
        inside = (x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)
        inside &= mask[near[1].astype(jnp.int32), near[0].astype(jnp.int32)]
        turned = jnp.where(inside, sampling.bicubic(values, x, y), 0)
        square = (geometry.canvas, geometry.canvas)
        return inside.astype(dtype).reshape(square), turned.reshape(square)

    masks, copies = jax.lax.map(one, angles)
    side = (geometry.fft, geometry.fft)
    spectra = [jnp.fft.rfft2(a, s=side) for a in (masks, copies, copies**2)]
    ones = jnp.ones(image_shape, dtype)
    sums = [_correlate(s, ones, geometry) for s in spectra]
    return Turned(angles, spectra[0], spectra[1], sums[0], sums[1], sums[2], mean)


def search(
    turned: Turned,
    image: Float[Array, "h w"],
    reference_shape: tuple[int, ...],
    *,
    num_starts: int = 8,
    max_shift: float = 0.25,
) -> tuple[Float[Array, "k 3 3"], Float[Array, " k"]]:
    """Returns the best turns and shifts, best first.

    Args:
      turned: The turned reference.
      image: The same coarse level of the image, grey.
      reference_shape: Height and width of the level of the reference.
      num_starts: How many starts.
      max_shift: As for `turn`.

    Returns:
      Euclidean motions in pixels of the level, at angles whose score is not below
      that of the neighbouring angles, and their normalised correlations, in [-1, 1].

    References:
      Padfield, Eq. 14.
    """
    geometry = _geometry(reference_shape, image.shape, max_shift)
    I = image - turned.mean
    n = jnp.maximum(turned.number, 1)
    SI = _correlate(turned.masks, I, geometry)
    SII = _correlate(turned.masks, I * I, geometry)
    SRI = _correlate(turned.values, I, geometry)
    spread = jnp.maximum(turned.squares - turned.total**2 / n, 0)
    spread *= jnp.maximum(SII - SI**2 / n, 0)
    score = (SRI - turned.total * SI / n) / jnp.sqrt(spread + 1e-3 * n**2)
    enough = turned.number > 0.5 * jnp.max(turned.number)
    score = jnp.where(enough, score, -1)
    num_angles, rows, columns = score.shape
    flat = score.reshape(num_angles, rows * columns)
    best = jnp.max(flat, axis=1)
    place = jnp.argmax(flat, axis=1)
    peak = (best >= jnp.roll(best, 1)) & (best >= jnp.roll(best, -1))
    _, chosen = jax.lax.top_k(jnp.where(peak, best, best - 2), num_starts)
    lag_y = jnp.asarray(geometry.lags[0])[place[chosen] // columns]
    lag_x = jnp.asarray(geometry.lags[1])[place[chosen] % columns]
    lag = jnp.stack([lag_x, lag_y], axis=1).astype(image.dtype)
    centre = lag + (geometry.canvas - 1) / 2
    theta = turned.angles[chosen]
    motions = jax.vmap(_motion, in_axes=(0, 0, None))(theta, centre, reference_shape)
    return motions, best[chosen]


def _motion(
    theta: Float[Array, ""], centre: Float[Array, "2"], shape: tuple[int, ...]
) -> Float[Array, "3 3"]:
    """Returns the turn that takes the centre of the reference to ``centre``."""
    middle = jnp.asarray([(shape[1] - 1) / 2, (shape[0] - 1) / 2], centre.dtype)
    return transform.euclidean(theta, centre - middle, shape=shape)


@functools.partial(
    programs.Program, static=("num_angles", "num_starts", "max_shift", "max_side")
)
def coarse_search(
    reference: Num[AnyArray, "h w *c"],
    image: Num[AnyArray, "_h _w *c"],
    *,
    num_angles: int = 72,
    num_starts: int = 8,
    max_shift: float = 0.25,
    max_side: int = 64,
) -> tuple[Float[Array, "k 3 3"], Float[Array, " k"]]:
    """Returns rough Euclidean motions from a reference to an image, best first.

    Args:
      reference: Grey image or channels last, 0 to 255.
      image: The image, of any size.
      num_angles: How many angles share the full turn.
      num_starts: How many motions to return, at most ``num_angles``.
      max_shift: Largest shift of the centre, as a fraction of the longer side.
      max_side: Both are halved until no side is longer.

    Returns:
      Motions in pixels of the arguments, and their normalised correlations.

    Raises:
      ValueError: If ``num_starts`` exceeds ``num_angles`` or an option is not positive.
    """
    if not 0 < num_starts <= num_angles:
        raise ValueError(f"num_starts must lie in 1..{num_angles}, got {num_starts}")
    if max_shift <= 0 or max_side < 8:
        raise ValueError(f"max_shift={max_shift} or max_side={max_side} is too small")
    pair = [pyramid.grey(sampling.as_float(a)) for a in (reference, image)]
    longest = max(*pair[0].shape, *pair[1].shape)
    halvings = max(0, math.ceil(math.log2(longest / max_side)))
    small = [pyramid.build(a, halvings + 1)[-1] for a in pair]
    turned = turn(
        small[0],
        jnp.ones(small[0].shape, bool),
        small[1].shape,
        num_angles=num_angles,
        max_shift=max_shift,
    )
    motions, scores = search(
        turned, small[1], small[0].shape, num_starts=num_starts, max_shift=max_shift
    )
    density = jnp.asarray([2.0**halvings, 2.0**halvings, 1], motions.dtype)
    return motions * (density[:, None] / density[None, :])[None], scores
