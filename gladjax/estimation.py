"""The M-step: from samples grouped by component to a mixture (Eqs. 2, 3, 8, 9).

Given a label per sample, each component gets its share of the samples as weight, their
mean, and their shrunk covariance (`gladjax.covariance`). `maximize` is that in one pass
over the samples, sorted by component, with static shapes: components of fewer than
``d`` samples are padded to a power of two and factored by batches of their Gram
matrices; the scatters of the others are sums over blocks (`gladjax.routing`). It runs
eagerly, under ``jit`` and ``vmap``, on any device. `maximize_streamed` is the same for
samples that stay on the host, a group of components at a time.

A sample may also belong to several components with a weight for each (EM): then the
labels are those of pairs, and the sums are weighted.

Components of fewer than ``min_count`` samples are dropped (R3); the weights are divided
by the number of samples that remain.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``p`` pairs.

Differs from the reference in
  1. R3, the dropping of singletons.
"""

import dataclasses
import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import covariance, devices, factors, mixture, programs, routing
from gladjax.covariance import PRECISION, Shrinkage
from gladjax.factors import Batch
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.routing import Blocks

FLOOR = 1e-6  # Of the mean variance of all samples (R3).
STREAMED = 1 << 25  # Numbers that are taken from the host at once.


class Groups(NamedTuple):
    """Pairs of a sample and a component, sorted by component.

    Attributes:
      samples: Sample of each pair.
      weights: Weight of each pair; None for 1.
      counts: Pairs of each component.
      totals: Sum of their weights.
      starts: First pair of each component.
    """

    samples: Int[Array, " p"]
    weights: Float[Array, " p"] | None
    counts: Int[Array, " k"]
    totals: Float[Array, " k"]
    starts: Int[Array, " k"]


def floor_of(
    features: Float[AnyArray, "n d"],
    used: Bool[AnyArray, " n"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Returns the variance that stands in for 0: a millionth of the mean variance.

    Args:
      features: Samples.
      used: Which of them count.
      axis_name: Axis of a `shard_map` over which the samples are spread.

    Returns:
      ``1e-6 tr(S_all) / d``, or a tiny number where that is 0; NaN where a sample that
      counts is not finite.
    """
    features, used = jnp.asarray(features), jnp.asarray(used)
    dtype, d = features.dtype, features.shape[1]

    def whole(part: Array) -> Array:
        return part if axis_name is None else jax.lax.psum(part, axis_name)

    total = jnp.maximum(whole(jnp.sum(used)), 1).astype(dtype)
    middle = whole(jnp.sum(jnp.where(used[:, None], features, 0), axis=0)) / total
    centred = jnp.where(used[:, None], features - middle[None, :], 0)
    floor = FLOOR * whole(jnp.sum(jnp.square(centred))) / (total * d)
    floor = jnp.maximum(floor, 1e6 * jnp.finfo(dtype).tiny)
    return jnp.where(jnp.isfinite(floor), floor, jnp.nan)


def num_inverses(counts: Int[Array, " k"], dimension: int) -> Int[Array, ""]:
    """Returns the size of the flat array of inverses that these counts need."""
    few = jnp.where(counts < dimension, counts, 0)
    return jnp.sum(jnp.square(few))


def most_room(num_pairs: int, num_components: int, dimension: int) -> tuple[int, int]:
    """Returns the sizes of the flat arrays that any split of the pairs may need.

    Args:
      num_pairs: Number of pairs ``p``.
      num_components: Number of components ``k``.
      dimension: Number of features ``d``.

    Returns:
      Rows, and numbers of the inverses.
    """
    p, k, d = num_pairs, num_components, dimension
    return min(p, k * d), min(p, k * (d - 1)) * (d - 1)


def maximize(  # noqa: PLR0913 - what a sample may weigh, and the paper's options
    features: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " p"],
    num_components: int,
    *,
    owner: Int[AnyArray, " p"] | None = None,
    weights: Float[AnyArray, " p"] | None = None,
    room: tuple[int, int] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    floor: Float[AnyArray, ""] | None = None,
) -> GaussianMixture:
    """Fits every component to the samples that carry its label.

    Args:
      features: Samples.
      labels: Component of each pair; pairs with a negative one are not used.
      num_components: Number of components ``k``.
      owner: Sample of each pair; by default a pair is a sample.
      weights: How much each pair counts; 1 by default.
      room: Sizes of the flat arrays of rows and inverses; by default what any split of
        the pairs among the components may need.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      floor: Variance that stands in for 0; by default `floor_of` these samples.

    Returns:
      The mixture; dropped components have weight 0.
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    (n, d), k, dtype = features.shape, num_components, features.dtype
    if floor is None:
        used = jnp.zeros((n,), bool)
        at = jnp.arange(n, dtype=jnp.int32) if owner is None else jnp.asarray(owner)
        used = used.at[at].max(labels >= 0)
        floor = floor_of(features, used)
    groups = _grouped(labels, k, owner, weights, dtype)
    alive = groups.totals >= min_count
    ranks = jnp.where(alive, jnp.minimum(groups.counts, d), 0)
    offsets = (jnp.cumsum(ranks) - ranks).astype(jnp.int32)
    p = labels.shape[0]
    num_rows, num_entries = room or most_room(p, k, d)
    fitted = GaussianMixture(
        log_weights=_log_shares(jnp.where(alive, groups.totals, 0)),
        means=jnp.zeros((k, d), dtype),
        rows=jnp.zeros((num_rows, d), dtype),
        inverses=jnp.zeros((num_entries,), dtype),
        offsets=offsets,
        ranks=ranks.astype(jnp.int32),
        scales=jnp.zeros((k,), dtype),
        noise=jnp.ones((k,), dtype),
        log_dets=jnp.zeros((k,), dtype),
    )
    fitted = _fit_few(fitted, features, groups, jnp.asarray(floor), shrinkage)
    if p >= d:
        fitted = _fit_many(fitted, features, groups, jnp.asarray(floor), shrinkage)
    return fitted


def _grouped(
    labels: Array,
    k: int,
    owner: AnyArray | None,
    weights: AnyArray | None,
    dtype: jnp.dtype,
) -> Groups:
    order, counts = routing.ordered(labels, k)
    starts = (jnp.cumsum(counts) - counts).astype(jnp.int32)
    index = order if owner is None else jnp.asarray(owner)[order]
    if weights is None:
        return Groups(index, None, counts, counts.astype(dtype), starts)
    safe = jnp.where((labels >= 0) & (labels < k), labels, k)
    totals = jnp.zeros((k + 1,), dtype).at[safe].add(jnp.asarray(weights))[:k]
    return Groups(index, jnp.asarray(weights)[order], counts, totals, starts)


def _log_shares(kept: Float[Array, " k"]) -> Float[Array, " k"]:
    whole = jnp.sum(kept)
    return jnp.log(kept / jnp.where(whole > 0, whole, 1))


def _weights_at(groups: Groups, at: Array, filled: Array, dtype: jnp.dtype) -> Array:
    """Returns the weights of pairs in places that hold one, 0 in the others."""
    if groups.weights is None:
        return filled.astype(dtype)
    return jnp.where(filled, groups.weights.at[at].get(mode="clip"), 0)


def _fit_few(
    fitted: GaussianMixture,
    features: Float[Array, "n d"],
    groups: Groups,
    floor: Array,
    shrinkage: Shrinkage,
) -> GaussianMixture:
    """Fits the components of fewer than ``d`` samples."""
    covariances = jax.vmap(
        partial(covariance.spiked, shrinkage=shrinkage), (0, 0, None)
    )
    # Seen from one of them, copies are exactly 0, and so is their scatter.
    origins = features[groups.samples.at[groups.starts].get(mode="clip")]

    def visit(fitted: GaussianMixture, batch: Batch) -> GaussianMixture:
        own, filled = batch.own, batch.filled
        pair = groups.starts.at[own].get(mode="clip")[:, None] + batch.local[None, :]
        w = _weights_at(groups, pair, filled, features.dtype)[:, :, None]
        sample = jnp.where(filled, groups.samples.at[pair].get(mode="clip"), 0)
        total = groups.totals.at[own].get(mode="fill", fill_value=1)
        e = features[sample] - origins.at[own].get(mode="clip")[:, None, :]
        e = jnp.where(filled[:, :, None], e, 0)
        shift = jnp.sum(w * e, axis=1) / total[:, None]
        B = jnp.where(filled[:, :, None], jnp.sqrt(w) * (e - shift[:, None, :]), 0)
        means = fitted.means.at[own].set(shift, mode="drop")
        fitted = dataclasses.replace(fitted, means=means)
        return factors.write_few(fitted, batch, covariances(B, total, floor))

    shifted = factors.each_few(fitted, visit, groups.samples.shape[0])
    few = (fitted.ranks > 0) & (fitted.ranks < fitted.means.shape[1])
    return dataclasses.replace(
        shifted,
        means=jnp.where(few[:, None], origins + shifted.means, fitted.means),
        rows=_rows_of_few(shifted, features, groups, origins),
    )


def _rows_of_few(
    shifted: GaussianMixture,
    features: Float[Array, "n d"],
    groups: Groups,
    origins: Float[Array, "k d"],
) -> Float[Array, "r d"]:
    """Returns the rows of the components of fewer than ``d`` samples, 0 elsewhere.

    One row after the other, wherever it belongs: to scatter those of a batch takes a
    CPU several times as long.

    Args:
      shifted: The mixture, its means seen from ``origins``.
      features: Samples.
      groups: These by component.
      origins: One sample of each component.
    """
    owner, (room, d) = mixture.owners(shifted), shifted.rows.shape
    batch = max(1, devices.sizes().elements // d)

    def visit(own: Array, row: Array) -> tuple[Array, tuple[()]]:
        at = jnp.minimum(own, origins.shape[0] - 1)
        few = (own < origins.shape[0]) & (shifted.ranks[at] < d)

        def centred() -> Array:
            pair = groups.starts[at] + row - shifted.offsets[at]
            e = features[groups.samples.at[pair].get(mode="clip")] - origins[at]
            w = _weights_at(groups, pair, few, features.dtype)[:, None]
            return jnp.where(few[:, None], jnp.sqrt(w) * (e - shifted.means[at]), 0)

        # Stretches of other components, and what is unused, cost nothing.
        empty = jnp.zeros((len(own), d), features.dtype)
        return jax.lax.cond(jnp.any(few), centred, lambda: empty), ()

    row = jnp.arange(room, dtype=jnp.int32)
    return devices.in_chunks(visit, (owner, row), batch)[0]


def _fit_many(
    fitted: GaussianMixture,
    features: Float[Array, "n d"],
    groups: Groups,
    floor: Array,
    shrinkage: Shrinkage,
) -> GaussianMixture:
    """Fits the components of at least ``d`` samples from sums over their blocks."""
    k, d = fitted.means.shape
    dtype = features.dtype
    many = fitted.ranks == d
    pairs = groups.samples.shape[0]
    most = min(k, pairs // d)  # There are no more of them.
    place = jnp.where(many, jnp.cumsum(many) - 1, most).astype(jnp.int32)
    size = min(256, max(8, pairs // max(most, 1)))
    order = jnp.arange(pairs, dtype=jnp.int32)
    routed = _blocks_of(routing.cut(order, groups.counts, size=size), many)
    batch = max(1, devices.sizes().elements // (size * d + d * d))
    routed = routing.batches(routed, batch)
    origins = features[groups.samples.at[groups.starts].get(mode="clip")]

    def block(i: Array, middle: Array) -> tuple[Array, Array, Array]:
        slots, filled = routed.slots[i], routed.filled[i]
        w = _weights_at(groups, slots, filled, dtype)[:, :, None]
        x = features[groups.samples[slots]] - middle[routed.group[i]][:, None, :]
        at = jnp.where(filled[:, 0], place[routed.group[i]], most)
        return jnp.where(filled[:, :, None], x, 0), w, at

    def total(i: Array, sums: Array) -> Array:
        e, w, at = block(i, origins)
        return sums.at[at].add(jnp.sum(w * e, axis=1), mode="drop")

    own = jnp.nonzero(many, size=most, fill_value=k)[0].astype(jnp.int32)
    count = groups.totals.at[own].get(mode="fill", fill_value=1)[:, None]
    sums = jax.lax.fori_loop(0, routed.used, total, jnp.zeros((most, d), dtype))
    means = origins.at[own].get(mode="fill", fill_value=0) + sums / count
    means = fitted.means.at[own].set(means, mode="drop")
    fitted = dataclasses.replace(fitted, means=means)

    def spread(i: Array, sums: Array) -> Array:
        e, w, at = block(i, means)
        e = e * jnp.sqrt(w)
        part = jnp.einsum("bsd,bse->bde", e, e, precision=PRECISION)
        return sums.at[at].add(part, mode="drop")

    scatters = jnp.zeros((most, d, d), dtype)
    scatters = jax.lax.fori_loop(0, routed.used, spread, scatters)

    def scatter(_: Array, at: Array) -> Array:
        return scatters.at[at].get(mode="clip")

    return factors.each_many(
        fitted, scatter, groups.totals, floor, most=most, shrinkage=shrinkage
    )


def _blocks_of(routed: Blocks, wanted: Bool[Array, " k"]) -> Blocks:
    """Brings the blocks of some components to the front and empties the others."""
    kept = wanted[routed.group] & routed.filled[:, 0]
    order = jnp.argsort(~kept, stable=True)
    return routed._replace(
        slots=routed.slots[order],
        filled=(routed.filled & kept[:, None])[order],
        group=routed.group[order],
        used=jnp.sum(kept, dtype=jnp.int32),
    )


def maximize_streamed(
    features: np.ndarray,
    labels: Int[np.ndarray, " n"],
    num_components: int,
    *,
    floor: Float[AnyArray, ""],
    exponent: int = 0,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> GaussianMixture:
    """Does what `maximize` does with samples that stay on the host.

    All samples of a component are taken at once, with those of as many others as fit.

    Args:
      features: Samples; a memory-mapped array is read row by row.
      labels: Component of each sample; negative ones are not used.
      num_components: Number of components ``k``.
      floor: Variance that stands in for 0.
      exponent: Binary logarithm of a factor of the samples.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.

    Returns:
      The mixture, NumPy arrays; dropped components have weight 0.
    """
    k, d = num_components, features.shape[1]
    order, starts = routing.group(labels, k)
    counts = np.diff(starts)
    capacity = max(STREAMED // (4 * d), int(counts.max(initial=1)))
    few = np.where(counts < d, counts, 0).astype(np.int64) ** 2
    parts, firsts = [], [0]
    while firsts[-1] < k:
        first = firsts[-1]
        inside = starts[first + 1 :] - starts[first] <= capacity
        firsts.append(first + max(1, int(inside.sum())))
    most = int(max(np.diff(firsts)))
    entries = max(int(few[a:b].sum()) for a, b in itertools.pairwise(firsts))
    room = (min(capacity, most * d), max(entries, 1))
    for first, last in itertools.pairwise(firsts):
        index = order[starts[first] : starts[last]]
        x = np.zeros((capacity, d), features.dtype)
        x[: len(index)] = np.ldexp(features[index], exponent)
        own = np.full(capacity, -1, np.int32)
        own[: len(index)] = np.asarray(labels)[index] - first
        part = _maximize(x, own, most, room, min_count, shrinkage, floor)
        parts.append(mixture.first(part, last - first))
    alive = np.where(counts >= min_count, counts, 0)
    with np.errstate(divide="ignore"):
        shares = np.log(alive / max(alive.sum(), 1)).astype(parts[0].means.dtype)
    return dataclasses.replace(mixture.join(parts), log_weights=shares)


@partial(
    programs.Program,
    static=("num_components", "room", "min_count", "shrinkage"),
    alone=True,
)
def _maximize(
    features: Array,
    labels: Array,
    num_components: int,
    room: tuple[int, int],
    min_count: int,
    shrinkage: Shrinkage,
    floor: Array,
) -> GaussianMixture:
    return maximize(
        features,
        labels,
        num_components,
        room=room,
        min_count=min_count,
        shrinkage=shrinkage,
        floor=floor,
    )
