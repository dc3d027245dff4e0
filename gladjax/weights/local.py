"""Local weights as a sparse list per position, and what can be read off it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.pytree import pytree, static


@pytree
class LocalWeights:
    """Sparse weights of the components at every position.

    Attributes:
      starts: First entry of each position (row by row), and the end, ``h w + 1``.
      components: Active components of each position, rising.
      log_weights: Logarithms of their weights.
      shape: Size of the map.
    """

    starts: Int[AnyArray, " p"]
    components: Int[AnyArray, " e"]
    log_weights: Float[AnyArray, " e"]
    shape: tuple[int, int] = static()


@pytree
class LabelCounts:
    """How often every label was seen at every position: what local weights are made of.

    Attributes:
      places: Position of each entry (row by row).
      components: Its label.
      amounts: Number of samples there with that label.
      shape: Size of the map.
    """

    places: Int[AnyArray, " e"]
    components: Int[AnyArray, " e"]
    amounts: Int[AnyArray, " e"]
    shape: tuple[int, int] = static()


def label_counts(
    labels: Int[AnyArray, "m h w"], *, before: LabelCounts | None = None
) -> LabelCounts:
    """Counts the labels at every position, so that more can be added later.

    Args:
      labels: Component of each sample, negative where not valid.
      before: Counts of other images.

    Returns:
      The counts of all images together, in rising order of position and label.

    Raises:
      ValueError: If the maps are of another size.
    """
    labels = np.asarray(labels)
    _, h, w = labels.shape
    if before is not None and before.shape != (h, w):
        raise ValueError(f"the counts are on a map {before.shape}, not {(h, w)}")
    place = np.broadcast_to(np.arange(h * w).reshape(1, h, w), labels.shape)
    ok = labels >= 0
    places, components = place[ok], labels[ok].astype(np.int64)
    amounts = np.ones(len(places), np.int64)
    if before is not None:
        places = np.concatenate([places, np.asarray(before.places)])
        components = np.concatenate([components, np.asarray(before.components)])
        amounts = np.concatenate([amounts, np.asarray(before.amounts)])
    k = int(components.max(initial=0)) + 1
    keys, inverse = np.unique(places * k + components, return_inverse=True)
    return LabelCounts(
        places=(keys // k).astype(np.int32),
        components=(keys % k).astype(np.int32),
        amounts=np.bincount(inverse, amounts, minlength=len(keys)).astype(np.int32),
        shape=(h, w),
    )


def disc(radius: float) -> list[tuple[int, int]]:
    """Returns the offsets ``(dy, dx)`` of the positions within a distance.

    Args:
      radius: Distance in cells of the map, 0 or more.

    Returns:
      Offsets with ``dy^2 + dx^2 <= radius^2``; five for radius 1.

    Raises:
      ValueError: If the radius is negative or not finite.
    """
    if not (0 <= radius < math.inf):
        raise ValueError(f"radius must be 0 or more and finite, not {radius}")
    reach = range(-int(radius), int(radius) + 1)
    return [(y, x) for y in reach for x in reach if y * y + x * x <= radius**2]


def counts(
    labels: Int[AnyArray, "m h w"], num_components: int, *, radius: float = 1.0
) -> Float[Array, "h w k"]:
    """Counts the labels around every position: windowed segment sums, dense.

    Args:
      labels: Component of each sample, negative where not valid.
      num_components: Number of components ``k``.
      radius: Radius of the window.

    Returns:
      ``|C_k(x)|`` of Eq. 11 for every position and component; divided by their sum
      they are the weights of Eq. 12.
    """
    labels = jnp.asarray(labels)
    _, h, w = labels.shape
    place = jnp.arange(h * w, dtype=jnp.int32).reshape(1, h, w)
    valid = (labels >= 0) & (labels < num_components)
    segment = jnp.where(valid, place * num_components + labels.astype(jnp.int32), -1)
    own = jax.ops.segment_sum(
        valid.ravel().astype(jnp.float32), segment.ravel(), h * w * num_components
    ).reshape(h, w, num_components)
    reach = int(radius)
    padded = jnp.pad(own, ((reach, reach), (reach, reach), (0, 0)))
    window = [
        padded[reach + y : reach + y + h, reach + x : reach + x + w]
        for y, x in disc(radius)
    ]
    return sum(window[1:], start=window[0])


def shares(
    labels: np.ndarray,
    mixture: GaussianMixture,
    offsets: list[tuple[int, int]],
    *,
    prior: float = 0.0,
    before: LabelCounts | None = None,
) -> LocalWeights:
    """Returns the share of every label around every position (Eqs. 11, 12).

    Args:
      labels: Component of each sample, ``(m, h, w)``, -1 where not valid.
      mixture: Its weights fill positions that no valid sample reaches.
      offsets: The window, see `disc`.
      prior: Number of samples, distributed as the global weights, that are counted
        everywhere in addition.
      before: Labels of further images; those of dead components do not count.

    Returns:
      The weights, a sparse list; with a prior, every living component is in it.
    """
    _, h, w = labels.shape
    k = mixture.means.shape[0]
    dtype = mixture.means.dtype
    seen = label_counts(labels, before=before)
    alive = np.isfinite(mixture.log_weights)[seen.components]
    at, component, own = (
        part[alive].astype(np.int64)
        for part in (seen.places, seen.components, seen.amounts)
    )
    y, x = at // w, at % w
    shifted, amount = [], []
    for dy, dx in offsets:  # What lies at x is counted at x - offset.
        ty, tx = y - dy, x - dx
        inside = (ty >= 0) & (ty < h) & (tx >= 0) & (tx < w)
        shifted.append(((ty * w + tx) * k + component)[inside])
        amount.append(own[inside])
    keys, inverse = np.unique(np.concatenate(shifted), return_inverse=True)
    total = np.bincount(inverse, np.concatenate(amount), minlength=len(keys))
    at, component = keys // k, keys % k
    window = np.bincount(at, total, minlength=h * w)
    if prior > 0:
        return _shrunk(mixture, (h, w), at * k + component, total, prior)
    log_weights = np.log(total / window[at])
    empty = np.flatnonzero(window == 0)
    if len(empty):
        alive = np.flatnonzero(np.isfinite(mixture.log_weights))
        at = np.concatenate([at, np.repeat(empty, len(alive))])
        component = np.concatenate([component, np.tile(alive, len(empty))])
        fill = np.tile(mixture.log_weights[alive], len(empty))
        log_weights = np.concatenate([log_weights, fill])
        order = np.argsort(at * k + component, kind="stable")
        at, component, log_weights = at[order], component[order], log_weights[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=h * w))])
    return LocalWeights(
        starts=starts.astype(np.int32),
        components=component.astype(np.int32),
        log_weights=log_weights.astype(dtype),
        shape=(h, w),
    )


def _shrunk(
    mixture: GaussianMixture,
    shape: tuple[int, int],
    entries: np.ndarray,
    total: np.ndarray,
    prior: float,
) -> LocalWeights:
    """Returns the mean of a Dirichlet posterior around the global weights."""
    everywhere = uniform(mixture, shape)
    k = len(mixture.means)
    counts = np.bincount(entries, total, minlength=shape[0] * shape[1] * k)
    window = counts.reshape(-1, k).sum(axis=1)
    at = np.repeat(np.arange(shape[0] * shape[1]), np.diff(everywhere.starts))
    added = prior * np.exp(everywhere.log_weights.astype(np.float64))
    shrunk = (counts[at * k + everywhere.components] + added) / (window[at] + prior)
    log_weights = np.log(shrunk).astype(mixture.means.dtype)
    return dataclasses.replace(everywhere, log_weights=log_weights)


def dense(local: LocalWeights, num_components: int) -> Float[np.ndarray, "h w k"]:
    """Returns the weights of all components, ``h w k`` numbers.

    Args:
      local: The weights.
      num_components: Number of components.

    Returns:
      ``pi_k(x)``, 0 where a component is not active.
    """
    starts = np.asarray(local.starts)
    at = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    values = np.exp(np.asarray(local.log_weights))
    out = np.zeros((len(starts) - 1, num_components), values.dtype)
    out[at, np.asarray(local.components)] = values
    return out.reshape(*local.shape, num_components)


def uniform(mixture: GaussianMixture, shape: tuple[int, int]) -> LocalWeights:
    """Returns the global weights at every position: the paper's ablation.

    Args:
      mixture: The mixture.
      shape: Size of the map.

    Returns:
      Weights that do not depend on the position.
    """
    log_weights = np.asarray(mixture.log_weights)
    alive = np.flatnonzero(np.isfinite(log_weights))
    size = shape[0] * shape[1]
    return LocalWeights(
        starts=(np.arange(size + 1) * len(alive)).astype(np.int32),
        components=np.tile(alive, size).astype(np.int32),
        log_weights=np.tile(log_weights[alive], size),
        shape=shape,
    )


def active(local: LocalWeights) -> Int[np.ndarray, "h w"]:
    """Returns the number of active components at each position.

    Args:
      local: The weights.

    Returns:
      The map of the paper's Fig. 3, right.
    """
    return np.diff(np.asarray(local.starts)).reshape(local.shape)
