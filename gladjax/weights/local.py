"""Local weights as a sparse list per position, and what can be read off it."""

import math
from collections.abc import Sequence

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
    labels: Int[AnyArray, "m h w"],
    num_components: int,
    *,
    radius: float = 1.0,
    before: LabelCounts | None = None,
) -> Float[Array, "h w k"]:
    """Counts the labels around every position: windowed segment sums (Eq. 11).

    Args:
      labels: Component of each sample, negative where not valid.
      num_components: Number of components ``k``.
      radius: Radius of the window.
      before: Labels of further images.

    Returns:
      ``|C_k(x)|`` of Eq. 11 for every position and component; divided by their sum
      they are the weights of Eq. 12.
    """
    return windowed(tallied(labels, num_components, before=before), radius)


def tallied(
    labels: Int[AnyArray, "m h w"],
    num_components: int,
    *,
    before: LabelCounts | None = None,
    total: Float[Array, "h w k"] | None = None,
) -> Float[Array, "h w k"]:
    """Counts the labels at every position: a segment sum.

    Args:
      labels: Component of each sample, negative where not valid.
      num_components: Number of components ``k``.
      before: Labels of further images.
      total: Counts to add to.
    """
    labels = jnp.asarray(labels)
    _, h, w = labels.shape
    k = num_components
    place = jnp.arange(h * w, dtype=jnp.int32).reshape(1, h, w)
    valid = (labels >= 0) & (labels < k)
    segment = jnp.where(valid, place * k + labels.astype(jnp.int32), h * w * k)
    own = jnp.zeros(h * w * k, jnp.float32) if total is None else total.ravel()
    own = own.at[segment.ravel()].add(1, mode="drop")
    if before is not None:
        component = jnp.asarray(before.components)
        entry = jnp.asarray(before.places) * k + component
        entry = jnp.where(component < k, entry, h * w * k)
        own = own.at[entry].add(jnp.asarray(before.amounts, jnp.float32), mode="drop")
    return own.reshape(h, w, k)


def windowed(own: Float[Array, "h w k"], radius: float) -> Float[Array, "h w k"]:
    """Adds up, at every position, what lies within a distance (Eq. 11).

    Args:
      own: An amount of every component at every position.
      radius: Radius of the window.
    """
    (h, w, _), reach = own.shape, int(radius)
    padded = jnp.pad(own, ((reach, reach), (reach, reach), (0, 0)))
    window = [
        padded[reach + y : reach + y + h, reach + x : reach + x + w]
        for y, x in disc(radius)
    ]
    return sum(window[1:], start=window[0])


def listed(
    weights: Float[AnyArray, "h w k"], *, dtype: np.dtype | None = None
) -> LocalWeights:
    """Returns dense weights as a sparse list (on the host).

    Args:
      weights: Weights of all components at every position.
      dtype: Of the logarithms; that of the weights by default.

    Returns:
      The list of those that are not 0.
    """
    weights = np.asarray(weights)
    h, w, k = weights.shape
    at, components = np.nonzero(weights.reshape(h * w, k))
    log_weights = np.log(weights.reshape(h * w, k)[at, components])
    starts = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=h * w))])
    return LocalWeights(
        starts=starts.astype(np.int32),
        components=components.astype(np.int32),
        log_weights=log_weights.astype(dtype or weights.dtype),
        shape=(h, w),
    )


def stacked(parts: Sequence[LocalWeights]) -> LocalWeights:
    """Returns the weights of a map from those of bands of its rows.

    Args:
      parts: Weights of the bands, from top to bottom.
    """
    sizes = np.concatenate([np.diff(part.starts) for part in parts])
    return LocalWeights(
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        components=np.concatenate([part.components for part in parts]),
        log_weights=np.concatenate([part.log_weights for part in parts]),
        shape=(sum(part.shape[0] for part in parts), parts[0].shape[1]),
    )


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


def cut(local: LocalWeights, rows: slice, columns: slice) -> LocalWeights:
    """Returns the weights of a part of the map.

    Args:
      local: The weights.
      rows: Rows of the part.
      columns: Its columns.
    """
    h, w = local.shape
    places = np.arange(h * w).reshape(h, w)[rows, columns]
    starts = np.asarray(local.starts)
    counts = np.diff(starts)[places.ravel()]
    new = np.concatenate([[0], np.cumsum(counts)])
    at = np.repeat(starts[places.ravel()] - new[:-1], counts) + np.arange(new[-1])
    return LocalWeights(
        starts=new.astype(np.int32),
        components=np.asarray(local.components)[at],
        log_weights=np.asarray(local.log_weights)[at],
        shape=(places.shape[0], places.shape[1]),
    )


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


def information(mixture: GaussianMixture, local: LocalWeights) -> float:
    """Returns what a position tells of the component, in nats.

    The relative entropy ``sum_k pi_k(x) log(pi_k(x) / pi_k)``, mean over positions: how
    much likelier local weights make the samples that they were counted from.

    Args:
      mixture: The mixture, with the global weights.
      local: The local weights.
    """
    log_weights = np.asarray(local.log_weights, np.float64)
    overall = np.asarray(mixture.log_weights, np.float64)[np.asarray(local.components)]
    total = np.sum(np.exp(log_weights) * (log_weights - overall))
    return float(total) / math.prod(local.shape)


def active(local: LocalWeights) -> Int[np.ndarray, "h w"]:
    """Returns the number of active components at each position.

    Args:
      local: The weights.

    Returns:
      The map of the paper's Fig. 3, right.
    """
    return np.diff(np.asarray(local.starts)).reshape(local.shape)
