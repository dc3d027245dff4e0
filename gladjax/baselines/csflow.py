"""CS-Flow: one normalising flow across the scales, fully convolutional.

The feature maps of all layers go through one invertible network together. Each block
splits every map's channels into two halves and scales and shifts one half by functions
of the other half *of all scales*: a convolution per scale, then a second one that also
receives its neighbours' activations, brought to its grid. Trained by maximum
likelihood, the network turns normal images into standard normal maps ``z``; the map of
a test image is the mean square of ``z`` over channels, its score the mean over all.

Notation: ``n`` images, ``l`` layers, ``z`` the outputs, ``s t`` scale and shift of a
half. The blocks are those of `crossflow`.

Differs from the reference in:
1. The scales are the layers of one backbone, standardised per channel; the reference
   takes one layer of a network run on three sizes of the image. Features extracted from
   three sizes may be given instead.
2. The map averages the scales; the reference shows the finest alone.
3. Adam without weight decay, with a cosine schedule.

Reference: Rudolph, Wehrbein, Rosenhahn, Wandt. "Fully Convolutional Cross-Scale-Flows
for Image-Based Defect Detection". WACV 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gladjax.baselines import crossflow, grids, training
from gladjax.baselines.crossflow import Maps
from gladjax.pytree import pytree, static


@pytree
class CSFlowModel:
    """The cross-scale flow.

    Attributes:
      blocks: For each block the parameters of its two subnetworks.
      orders: For each block and scale the permutation of the channels before it.
      means: For each scale the mean subtracted from features.
      deviations: For each scale the deviation they are divided by.
      losses: Training loss at each step, in nats per feature, up to a constant.
      layers: Names of the layers, finest first.
      image_size: Height and width of the maps.
    """

    blocks: tuple[Any, ...]
    orders: tuple[tuple[Int[Array, " _d"], ...], ...]
    means: tuple[Float[Array, " _d"], ...]
    deviations: tuple[Float[Array, " _d"], ...]
    losses: Float[Array, " _s"]
    layers: tuple[str, ...] = static()
    image_size: tuple[int, int] = static()


@dataclass(frozen=True)
class Training:
    """How the flow is built and trained.

    Attributes:
      num_blocks: Blocks of the flow.
      num_hidden: Channels inside the subnetworks.
      num_steps: Steps of Adam.
      batch_size: Images per step.
      learning_rate: Largest rate.
    """

    num_blocks: int = 4
    num_hidden: int = 64
    num_steps: int = 500
    batch_size: int = 8
    learning_rate: float = 1e-3


def fit(
    key: PRNGKeyArray,
    features: grids.FeatureMaps,
    *,
    valid: grids.Valid | None = None,
    layers: Sequence[str] | None = None,
    settings: Training = Training(),
    image_size: grids.Size | None = None,
) -> CSFlowModel:
    """Trains the flow.

    Args:
      key: Draws parameters, permutations and batches.
      features: Feature maps of the training images, ``(m, h, w, d)`` each, ``d > 1``.
      valid: Cells of the finest grid that may be used, per image. Features of others
        are replaced by the mean, and the likelihood is not asked of them.
      layers: Names of the layers to use, finest first; None means all.
      settings: How the flow is built and trained.
      image_size: Height and width of the maps that `score` returns; None means four
        times the finest grid.

    Returns:
      The model.

    Raises:
      ValueError: If the feature maps or settings do not fit together, or a layer has a
        single feature or no valid cell.
      FloatingPointError: If training diverges.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> train = {"layer1": rng.normal(size=(4, 4, 4, 4)).astype(np.float32)}
      >>> settings = Training(num_blocks=1, num_hidden=4, num_steps=2, batch_size=2)
      >>> model = fit(jax.random.key(0), train, settings=settings)
      >>> heat, scores = score(model, train)
      >>> print(heat.shape, scores.shape, model.losses.shape)
      (4, 16, 16) (4,) (2,)
    """
    names = grids.select(features, layers)
    size = grids.image_size_or_default(image_size, grids.finest(features, names))
    if min(settings.num_blocks, settings.num_hidden, settings.batch_size) < 1:
        raise ValueError(f"every number must be positive: {settings}")
    training.optimizer(settings.num_steps, learning_rate=settings.learning_rate)
    masks = grids.coarsen(valid, features)
    maps = tuple(jnp.asarray(features[name]) for name in names)
    dims = [x.shape[-1] for x in maps]
    if min(dims) < 2:
        raise ValueError(f"every layer needs two features or more, got {dims}")
    inside = tuple(
        jnp.ones(x.shape[:3], bool) if masks is None else masks[name]
        for x, name in zip(maps, names, strict=True)
    )
    if not all(bool(jnp.any(use)) for use in inside):
        raise ValueError("valid leaves a layer without a cell")
    moments = [_moments(x, use) for x, use in zip(maps, inside, strict=True)]
    means, deviations = zip(*moments, strict=True)
    start, shuffle, loop = jax.random.split(key, 3)
    rng = training.generator(shuffle)
    orders = tuple(
        tuple(jnp.asarray(rng.permutation(d)) for d in dims)
        for _ in range(settings.num_blocks)
    )
    blocks, losses = training.minimize(
        loop,
        crossflow.init(
            start,
            dims,
            maps[0].dtype,
            num_blocks=settings.num_blocks,
            num_hidden=settings.num_hidden,
        ),
        (maps, inside, orders, means, deviations),
        loss=_loss,
        settings=settings,
        num_steps=settings.num_steps,
        learning_rate=settings.learning_rate,
    )
    return CSFlowModel(
        blocks, orders, means, deviations, jnp.asarray(losses), names, size
    )


@jax.jit
def score(
    model: CSFlowModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _H _W"], Float[Array, " n"]]:
    """Scores test images by the mean square of the flow's output.

    Args:
      model: The model.
      features: Feature maps of the test images, ``(n, h, w, d)`` each.

    Returns:
      Maps at the image's size, the average of the scales, and the mean square over all
      outputs; higher is more anomalous.

    Raises:
      ValueError: If a layer is missing.
    """
    names = grids.select(features, model.layers)

    def one(maps: Mapping[str, Array]) -> tuple[Array, Array]:
        x = tuple(maps[name][None] for name in names)
        z, _ = crossflow.transform(
            model.blocks, model.orders, _standard(x, model.means, model.deviations)
        )
        scales = [
            grids.heat_map(jnp.mean(s**2, axis=-1), image_size=model.image_size)[0]
            for s in z
        ]
        total = sum(jnp.sum(s**2) for s in z)
        count = sum(s.size for s in z)
        return jnp.mean(jnp.stack(scales), axis=0), jnp.asarray(total) / count

    return jax.lax.map(one, {name: jnp.asarray(features[name]) for name in names})


def _loss(blocks: tuple, data: tuple, key: PRNGKeyArray, settings: Training) -> Array:
    """Returns the negative log-density of images drawn by the key."""
    maps, inside, orders, means, deviations = data
    rows = jax.random.randint(key, (settings.batch_size,), 0, maps[0].shape[0])
    x, use = jax.tree.map(lambda a: a[rows], (maps, inside))
    z, log_det = crossflow.transform(
        blocks, orders, _standard(x, means, deviations, use)
    )
    return -jnp.mean(_log_prob(z, log_det, use))


@jax.jit
def _moments(x: Array, inside: Array) -> tuple[Array, Array]:
    """Returns mean and deviation of each channel over the cells marked."""
    use = inside[..., None]
    count = jnp.sum(inside).astype(x.dtype)
    mean = jnp.sum(jnp.where(use, x, 0), axis=(0, 1, 2)) / count
    e = jnp.where(use, x - mean[None, None, None], 0)
    variance = jnp.sum(e**2, axis=(0, 1, 2)) / count
    return mean, jnp.sqrt(variance) + jnp.asarray(1e-6, x.dtype)


def _standard(
    maps: Maps, means: Maps, deviations: Maps, inside: Maps | None = None
) -> Maps:
    """Standardises channels; cells not inside become the mean."""
    found = []
    for i, (x, mean, deviation) in enumerate(zip(maps, means, deviations, strict=True)):
        e = (x - mean[None, None, None]) / deviation[None, None, None]
        found.append(e if inside is None else jnp.where(inside[i][..., None], e, 0))
    return tuple(found)


def _log_prob(z: Maps, log_det: Maps, inside: Maps) -> Float[Array, " n"]:
    """Returns the log-density per feature of each image, up to a constant."""
    total, count = 0, 0
    for one, det, use in zip(z, log_det, inside, strict=True):
        cell = det - 0.5 * jnp.sum(one**2, axis=-1)
        total = total + jnp.sum(jnp.where(use, cell, 0), axis=(1, 2))
        count = count + jnp.sum(use, axis=(1, 2)) * one.shape[-1]
    count = jnp.maximum(jnp.asarray(count), 1)
    return jnp.asarray(total) / count.astype(z[0].dtype)
