"""Simulated anomalies: foreign texture where a noise says so.

An anomaly is a blend of the image with a texture inside the blobs of thresholded Perlin
noise. Perlin noise interpolates random gradients on a lattice::

    noise(p) = sum over the 4 corners q of  fade(p - q) * gradient(q) . (p - q)

with ``fade`` the product of ``6 t^5 - 15 t^4 + 10 t^3`` on both axes. Its lattice is
drawn per axis among powers of two, so that blobs are round or stretched.

The texture is another image of the training set, rolled, flipped and turned, its
patches perhaps shuffled, its channels permuted, its contrast and brightness changed,
perhaps inverted or posterised.

Notation: ``h w`` the image, ``beta`` the texture's opacity.

Differs from the reference in:
1. The textures: DRAEM takes photographs of the Describable Textures Dataset, which is
   not part of this package. It reports that textures from the training images work
   nearly as well.
2. The lattice is drawn finer rather than the noise rotated; there is no affine
   distortion of the textures.

Reference: Zavrtanik, Kristan, Skocaj. "DRAEM: A Discriminatively Trained Reconstruction
Embedding for Surface Anomaly Detection". ICCV 2021, section 3.3. Noise: Perlin.
"Improving Noise". SIGGRAPH 2002.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from gladjax.baselines import grids


def perlin(
    key: PRNGKeyArray,
    *,
    size: grids.Size,
    max_power: int = 5,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "_h _w"]:
    """Draws one map of Perlin noise.

    Args:
      key: Draws the lattice and its gradients.
      size: Height and width.
      max_power: Lattice cells per axis are a power of two, of this exponent at most.
      dtype: Type of the result.

    Returns:
      Noise of mean about 0, within [-1, 1] and mostly within [-0.7, 0.7].

    Raises:
      ValueError: If ``max_power`` is negative.
    """
    if max_power < 0:
        raise ValueError(f"max_power must not be negative, got {max_power}")
    side = 2**max_power + 1
    u = jax.random.uniform(key, (side * side + 2,), dtype)
    cells = 2 ** jnp.floor(u[:2] * (max_power + 1)).astype(int)
    angle = u[2:].reshape(side, side) * (2 * math.pi)
    axes = []
    for length, count in zip(size, cells, strict=True):
        place = (jnp.arange(length, dtype=dtype) + 0.5) / length * count.astype(dtype)
        axes.append((jnp.floor(place).astype(cells.dtype), place - jnp.floor(place)))
    (i, u), (j, v) = axes
    noise = jnp.zeros(size, dtype)
    for down in (0, 1):
        for right in (0, 1):
            at = angle[i + down][:, j + right]
            a, b = (u - down)[:, None], (v - right)[None]
            fade = _fade(1 - jnp.abs(a)) * _fade(1 - jnp.abs(b))
            noise = noise + fade * (jnp.sin(at) * a + jnp.cos(at) * b)
    return noise * 2**0.5


def texture(key: PRNGKeyArray, image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Makes a texture of an image, so changed that it does not belong there.

    Args:
      key: Draws the changes.
      image: RGB image in [0, 1], square or not.

    Returns:
      The texture in [0, 1].
    """
    h, w, _ = image.shape
    # One draw decides everything: each further one costs seconds of compilation.
    u = jax.random.uniform(key, (82,), image.dtype)
    rows, columns = jnp.floor(u[:2] * max(h, w)).astype(int)
    image = jnp.roll(jnp.roll(image, rows, axis=0), columns, axis=1)
    image = jnp.where(u[2] < 0.5, image[::-1], image)
    image = jnp.where(u[3] < 0.5, image[:, ::-1], image)
    if h == w:
        image = jnp.where(u[4] < 0.5, image.swapaxes(0, 1), image)
    if h % 8 == 0 and w % 8 == 0:
        patches = image.reshape(8, h // 8, 8, w // 8, 3).swapaxes(1, 2)
        order = jnp.argsort(u[18:])
        mixed = patches.reshape(64, h // 8, w // 8, 3)[order].reshape(patches.shape)
        mixed = mixed.swapaxes(1, 2).reshape(h, w, 3)
        image = jnp.where(u[5] < 0.5, mixed, image)
    image = image[..., jnp.argsort(u[6:9])]
    image = jnp.where(u[9] < 0.3, 1 - image, image)
    image = jnp.where(u[10] < 0.3, jnp.round(image * 3) / 3, image)
    gain, offset = 0.5 + u[11:14][None, None], 0.6 * u[14:17][None, None] - 0.3
    return jnp.clip((image - 0.5) * gain + 0.5 + offset, 0, 1)


def anomaly(
    key: PRNGKeyArray,
    image: Float[Array, "h w 3"],
    other: Float[Array, "h w 3"],
    *,
    probability: float = 0.5,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"]]:
    """Blends a texture into an image inside the blobs of a noise.

    Args:
      key: Draws everything.
      image: RGB image in [0, 1].
      other: Image that the texture is made of.
      probability: Share of images that get an anomaly.

    Returns:
      The image with the anomaly, and its mask, 1 inside; without one, the image as it
      is and a mask of zeros.
    """
    h, w, _ = image.shape
    keys = jax.random.split(key, 3)
    power = max(1, min(5, int(math.log2(min(h, w))) - 2))
    noise = perlin(keys[0], size=(h, w), max_power=power, dtype=image.dtype)
    u = jax.random.uniform(keys[1], (2,), image.dtype)
    there = u[0] < probability
    mask = jnp.where((noise > 0.35) & there, 1.0, 0.0).astype(image.dtype)
    beta = 0.2 + 0.8 * u[1]
    blend = (1 - beta) * image + beta * texture(keys[2], other)
    return jnp.where(mask[..., None] > 0, blend, image), mask


def _fade(t: Array) -> Array:
    """Perlin's smooth step from 0 at 0 to 1 at 1."""
    return t**3 * (t * (6 * t - 15) + 10)
