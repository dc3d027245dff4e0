"""The M-step: from labels to a mixture (paper, Eqs. 2, 3, 8, 9).

Given a label per sample, each component gets its share of the samples as weight, their
mean, and their shrunk covariance (`gladjax.covariance`). There are two forms of the
same computation. `maximize` has static shapes, so that it can be jitted and vmapped: a
scan over the components picks, for each, the smallest block that holds its samples.
`Estimator` runs on the host, reads samples from wherever they lie, and remembers: a
component whose samples did not change since the last call is not computed again.

Components of fewer than ``min_count`` samples are dropped (R3); the weights are divided
by the number of samples that remain.

Notation: ``n`` samples, ``k`` components, ``d`` features.

Differs from the reference in
  1. R3, the dropping of singletons.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import covariance, parts, routing
from gladjax.covariance import PRECISION, Factor, Shrinkage
from gladjax.mixture import GaussianMixture
from gladjax.parts import Part

FLOOR = 1e-6  # Of the mean variance of all samples (R3).
CHUNK = 4096  # Samples of one component that are read at once.


def ladder(largest: int) -> list[int]:
    """Returns block sizes, two to an octave, the last one ``largest``."""
    sizes, step = [], 8
    while step < largest:
        sizes += [size for size in (step, step + step // 2) if size < largest]
        step *= 2
    return [*sizes, largest]


def floor_variance(features: np.ndarray, valid: np.ndarray) -> float:
    """Returns the variance that stands in for 0: a millionth of the mean variance.

    Args:
      features: Samples, ``(n, d)``, read in chunks.
      valid: Which of them count, ``(n,)``.

    Returns:
      ``1e-6 tr(S_all) / d``, or a tiny number where that is 0.

    Raises:
      ValueError: If a sample that counts is not finite.
    """
    d = features.shape[1]
    count, total, square = 0, np.zeros(d), np.zeros(d)
    shift = None
    for first in range(0, len(features), CHUNK):
        part = np.asarray(features[first : first + CHUNK], np.float64)
        part = part[valid[first : first + CHUNK]]
        if len(part) == 0:
            continue
        if not np.all(np.isfinite(part)):
            raise ValueError("features of samples that count must be finite")
        shift = part[0] if shift is None else shift
        part = part - shift
        count += len(part)
        total += part.sum(axis=0)
        square += np.square(part).sum(axis=0)
    variance = np.maximum(square / max(count, 1) - (total / max(count, 1)) ** 2, 0)
    tiny = np.finfo(np.asarray(features[:0]).dtype).tiny
    return float(max(FLOOR * variance.mean(), 1e6 * tiny))


def maximize(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    num_components: int,
    *,
    num_rows: int | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    floor: Float[Array, ""] | None = None,
) -> GaussianMixture:
    """Fits every component to the samples that carry its label.

    Args:
      features: Samples.
      labels: Component of each sample; samples with a negative label are not used.
      num_components: Number of components ``k``.
      num_rows: Size of the flat array of rows, at least and by default
        ``min(n, k d)``.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      floor: Variance that stands in for 0; by default `floor_of` these samples.

    Returns:
      The mixture; dropped components have weight 0.
    """
    n, d = features.shape
    dtype = features.dtype
    num_rows = max(min(n, num_components * d), num_rows or 0)
    classes = ladder(min(n, d))
    used = (labels >= 0) & (labels < num_components)
    labels = jnp.where(used, labels, num_components).astype(jnp.int32)
    order = jnp.argsort(labels, stable=True)
    counts = jnp.zeros((num_components + 1,), jnp.int32).at[labels].add(1)
    counts = counts[:num_components]
    alive = counts >= min_count
    starts = jnp.cumsum(counts) - counts
    if floor is None:
        floor = floor_of(features, used)
    # Sorted samples, with room to read and write whole blocks past the end.
    sorted_ = jnp.concatenate([features[order], jnp.zeros((d, d), dtype)])

    branches = _branches(sorted_, min(n, d), floor, shrinkage)
    limits = jnp.asarray(classes, jnp.int32)

    def visit(
        carry: tuple[Array, Array, Array], component: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
        rows, variances, offset = carry
        first, count, living = component
        branch = jnp.searchsorted(limits, count, side="left")
        mean, factor = jax.lax.switch(branch, branches, first, count)
        rank = jnp.where(living, factor.rank, 0)
        own = jnp.where(living, factor.rows, 0)
        spread = jnp.where(living, factor.variances, 1)
        rows = jax.lax.dynamic_update_slice_in_dim(rows, own, offset, 0)
        variances = jax.lax.dynamic_update_slice_in_dim(variances, spread, offset, 0)
        carry = (rows, variances, offset + rank)
        return carry, (mean, offset, rank, factor.noise, factor.log_det)

    scratch = (
        jnp.zeros((num_rows + d, d), dtype),
        jnp.ones((num_rows + d,), dtype),
        jnp.zeros((), jnp.int32),
    )
    (rows, variances, _), (means, offsets, ranks, noise, log_dets) = jax.lax.scan(
        visit, scratch, (starts, counts, alive)
    )
    kept = jnp.where(alive, counts, 0).astype(dtype)
    return GaussianMixture(
        log_weights=jnp.log(kept / jnp.maximum(jnp.sum(kept), 1)),
        means=means,
        rows=rows[:num_rows],
        variances=variances[:num_rows],
        offsets=offsets,
        ranks=ranks,
        noise=noise,
        log_dets=log_dets,
    )


def floor_of(
    features: Float[Array, "n d"],
    used: Bool[Array, " n"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Returns what `floor_variance` returns, inside of a trace.

    Args:
      features: Samples.
      used: Which of them count.
      axis_name: Axis of a `shard_map` over which the samples are spread.

    Returns:
      ``1e-6 tr(S_all) / d``, or a tiny number where that is 0.
    """
    dtype, d = features.dtype, features.shape[1]

    def whole(part: Array) -> Array:
        return part if axis_name is None else jax.lax.psum(part, axis_name)

    total = jnp.maximum(whole(jnp.sum(used)), 1).astype(dtype)
    middle = whole(jnp.sum(jnp.where(used[:, None], features, 0), axis=0)) / total
    centred = jnp.where(used[:, None], features - middle[None, :], 0)
    floor = FLOOR * whole(jnp.sum(jnp.square(centred))) / (total * d)
    return jnp.maximum(floor, 1e6 * jnp.finfo(dtype).tiny)


def _branches(
    samples: Float[Array, "m d"], largest: int, floor: Array, shrinkage: Shrinkage
) -> list[Callable[[Array, Array], tuple[Array, Factor]]]:
    """Returns functions ``(first, count) -> (mean, factor)``, one per block size.

    Samples ``first`` to ``first + count`` are those of a component. The last function
    takes any number.
    """
    d = samples.shape[1]
    dtype = samples.dtype

    def block(first: Array, count: Array, size: int) -> tuple[Array, Array]:
        part = jax.lax.dynamic_slice_in_dim(samples, first, size)
        return part, jnp.arange(size, dtype=jnp.int32) < count

    def few(first: Array, count: Array, *, size: int) -> tuple[Array, Factor]:
        part, mask = block(first, count, size)
        mean, factor = covariance.spiked(part, mask, floor, shrinkage=shrinkage)
        rows = jnp.pad(factor.rows, ((0, d - size), (0, 0)))
        variances = jnp.pad(factor.variances, (0, d - size), constant_values=1)
        return mean, factor._replace(rows=rows, variances=variances)

    def many(first: Array, count: Array) -> tuple[Array, Factor]:
        def centred(i: Array, mean: Array) -> Array:
            part, mask = block(first + i * d, count - i * d, d)
            return jnp.where(mask[:, None], part - mean[None, :], 0)

        # Seen from one of them, copies are exactly 0, and so is their scatter.
        origin = jax.lax.dynamic_index_in_dim(samples, first, keepdims=False)

        def add(i: Array, total: Array) -> Array:
            return total + jnp.sum(centred(i, origin), axis=0)

        num_blocks = -(-count // d)
        total = jax.lax.fori_loop(0, num_blocks, add, jnp.zeros((d,), dtype))
        mean = origin + total / jnp.maximum(count, 1).astype(dtype)

        def spread(i: Array, total: Array) -> Array:
            B = centred(i, mean)
            return total + jnp.matmul(B.T, B, precision=PRECISION)

        scatter = jax.lax.fori_loop(0, num_blocks, spread, jnp.zeros((d, d), dtype))
        return mean, covariance.whitened(scatter, count, floor, shrinkage=shrinkage)

    branches = [partial(few, size=size) for size in ladder(largest)]
    return [*branches, many] if len(samples) - d > d else branches


class Estimator:
    """The M-step on the host, one component at a time, only where needed.

    Args:
      features: Samples, ``(n, d)``; a memory-mapped array is read row by row.
      floor: Variance that stands in for 0, see `floor_variance`.
      min_count: Components of fewer samples are dropped, for good.
      shrinkage: Shrinkage intensity.
    """

    def __init__(
        self,
        features: np.ndarray,
        *,
        floor: float,
        min_count: int = 2,
        shrinkage: Shrinkage = covariance.oas,
    ) -> None:
        """Keeps a reference to the samples; computes nothing."""
        self._features = features
        self._min_count = min_count
        self._shrinkage = shrinkage
        self._dtype = np.dtype(features.dtype)
        self._floor = np.asarray(floor, self._dtype)
        self._parts: dict[int, Part] = {}
        self._labels: np.ndarray | None = None

    def __call__(
        self, labels: np.ndarray, num_components: int
    ) -> tuple[GaussianMixture, np.ndarray]:
        """Fits the components whose samples changed since the last call.

        Args:
          labels: Component of each sample, negative where not used, ``(n,)``.
          num_components: Number of components, the same at every call.

        Returns:
          The mixture, NumPy arrays, dropped components with weight 0; and the
          components that were fitted anew or dropped.
        """
        if self._labels is None:
            changed = np.arange(num_components)
        else:
            moved = np.flatnonzero(labels != self._labels)
            touched = np.concatenate([labels[moved], self._labels[moved]])
            changed = np.unique(touched[touched >= 0])
        self._labels = labels.copy()
        order, starts = routing.group(labels, num_components)
        counts = np.diff(starts)
        for component in changed[counts[changed] < self._min_count]:
            self._parts.pop(int(component), None)
        work = changed[counts[changed] >= self._min_count]
        work = work[np.argsort(-counts[work], kind="stable")].tolist()

        def fit(component: int) -> Part:
            return self._fit(order[starts[component] : starts[component + 1]])

        self._parts |= parts.in_threads(fit, work)
        alive = np.array([c in self._parts for c in range(num_components)], bool)
        counts = np.where(alive, counts, 0)
        d = self._features.shape[1]
        return parts.assemble(self._parts, counts, d, self._dtype), changed

    def _fit(self, index: np.ndarray) -> Part:
        """Returns mean, rows, variances, noise and log-determinant of one component."""
        n, d = len(index), self._features.shape[1]
        if n <= d:
            size = next(size for size in ladder(d) if size >= n)
            samples = np.zeros((size, d), self._dtype)
            samples[:n] = self._features[index]
            mean, factor = parts.few(samples, np.int32(n), self._floor, self._shrinkage)
        else:
            mean, scatter = self._moments(index)
            factor = parts.many(scatter, np.int32(n), self._floor, self._shrinkage)
        return parts.part(mean, factor)

    def _moments(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and scatter of many samples, read in chunks."""
        d = self._features.shape[1]
        chunks = [index[i : i + CHUNK] for i in range(0, len(index), CHUNK)]
        total = np.zeros(d)
        for chunk in chunks:
            total += np.asarray(self._features[chunk]).sum(axis=0, dtype=np.float64)
        mean = (total / len(index)).astype(self._dtype)
        scatter = np.zeros((d, d), self._dtype)
        for chunk in chunks:
            B = self._features[chunk] - mean
            scatter += B.T @ B
        return mean, scatter
