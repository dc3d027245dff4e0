"""Nearest neighbours in a memory bank, and a greedy coreset of one.

Squared Euclidean distances come from ``|x|^2 - 2 x'c + |c|^2``, one matrix product per
block of the bank, so that memory is bounded by a block whatever the bank's size. The
product cancels where ``x`` and ``c`` are close; therefore the bank's mean is subtracted
from both sides first and the distances returned are computed anew from the winners'
differences.

The coreset is the greedy k-center selection: again and again the point farthest from
the chosen ones. The obvious loop reads all points for each choice. This one does not,
and chooses the same: all distances to the chosen centres only ever shrink, so while the
best of a few candidates (the points that were farthest when the round began) is at
least as far as every other point *was* then, it is the farthest now. A round chooses
among its candidates until that fails, and only then are all points updated, for all the
round's centres in one matrix product.

Notation: ``n`` queries or points, ``b`` rows of the bank, ``d`` features, ``k``
neighbours or centres.

Differs from the reference in:
1. The round-wise selection is ours. Its choices are those of the plain greedy loop
   wherever rounding does not decide.
2. The random projection is Gaussian and dense (PatchCore's paper: sparse); either keeps
   distances within the lemma of Johnson and Lindenstrauss.

Reference: Sener, Savarese. "Active Learning for Convolutional Neural Networks: a
Core-Set Approach". ICLR 2018, algorithm 1.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

HIGHEST = jax.lax.Precision.HIGHEST


def nearest(
    queries: Float[Array, "n d"],
    bank: Float[Array, "b d"],
    *,
    num_neighbors: int = 1,
    allowed: Bool[Array, " b"] | None = None,
    chunk: int = 2048,
) -> tuple[Float[Array, "n _k"], Int[Array, "n _k"]]:
    """Returns the nearest rows of a bank, nearest first.

    Args:
      queries: Vectors to look up.
      bank: Vectors to find.
      num_neighbors: How many to return; at most ``b``.
      allowed: Rows of the bank that may be returned; None means all.
      chunk: Rows of the bank per block. Memory is about ``4 n chunk`` bytes.

    Returns:
      Euclidean distances and rows, both ``(n, num_neighbors)``. Where fewer rows are
      allowed than asked for, the distance is infinite.

    Raises:
      ValueError: If ``num_neighbors`` is not between 1 and ``b``.

    Example:
      >>> bank = jnp.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
      >>> distance, row = nearest(jnp.array([[3.0, 3.0]]), bank, num_neighbors=2)
      >>> print(row.tolist(), distance[0, 0])
      [[1, 0]] 1.0
    """
    b, k = bank.shape[0], num_neighbors
    if not 1 <= k <= b:
        raise ValueError(f"num_neighbors must be between 1 and {b}, got {k}")
    chunk = max(k, min(chunk, b))
    center = jnp.mean(bank, axis=0, keepdims=True)
    x, c = queries - center, bank - center
    norms = jnp.sum(c**2, axis=1)
    if allowed is not None:
        norms = jnp.where(allowed, norms, jnp.inf)

    def block(best: tuple[Array, Array], start: Array) -> tuple[tuple, None]:
        # The last block starts early; rows seen twice are masked by their number.
        first = jnp.minimum(start, b - chunk)
        rows = first + jnp.arange(chunk, dtype=jnp.int32)
        part = jax.lax.dynamic_slice_in_dim(c, first, chunk)
        offset = jax.lax.dynamic_slice_in_dim(norms, first, chunk)
        offset = jnp.where(rows >= start, offset, jnp.inf)
        # |x|^2 is the same for every row of the bank, so the order needs no |x|^2.
        gap = offset[None] - 2 * jnp.matmul(x, part.T, precision=HIGHEST)
        return _merge(best, gap, rows, k), None

    start = (
        jnp.full((x.shape[0], k), jnp.inf, x.dtype),
        jnp.zeros((x.shape[0], k), jnp.int32),
    )
    (gap, row), _ = jax.lax.scan(block, start, jnp.arange(0, b, chunk, dtype=jnp.int32))
    exact = [jnp.sum((queries - bank[row[:, j]]) ** 2, axis=1) for j in range(k)]
    exact = jnp.where(jnp.isinf(gap), jnp.inf, jnp.stack(exact, axis=1))
    order = jnp.argsort(exact, axis=1)
    take = partial(jnp.take_along_axis, indices=order, axis=1)
    return jnp.sqrt(take(exact)), take(row)


def project(
    key: PRNGKeyArray, points: Float[Array, "n d"], *, num_dims: int = 128
) -> Float[Array, "n _r"]:
    """Projects points onto random directions, keeping distances roughly.

    Args:
      key: Draws the directions.
      points: Vectors.
      num_dims: Number of directions; the points come back unchanged where they have no
        more features than that.

    Returns:
      Projected points; squared distances are kept in expectation.

    Raises:
      ValueError: If ``num_dims`` is not positive.
    """
    if num_dims < 1:
        raise ValueError(f"num_dims must be positive, got {num_dims}")
    d = points.shape[1]
    if num_dims >= d:
        return points
    directions = jax.random.normal(key, (d, num_dims), points.dtype)
    return jnp.matmul(points, directions, precision=HIGHEST) / num_dims**0.5


class _Greedy(NamedTuple):
    """State of the selection: ``gap`` is the squared distance, -1 at chosen points."""

    gap: Float[Array, " n"]
    chosen: Int[Array, " k"]
    num_chosen: Int[Array, ""]


class _Round(NamedTuple):
    """State within a round: gaps of the candidates, and the round's centres."""

    gap: Float[Array, " c"]
    centers: Float[Array, "p d"]
    chosen: Int[Array, " k"]
    num_chosen: Int[Array, ""]


@partial(jax.jit, static_argnames=("num_centers", "num_candidates", "per_round"))
def coreset(
    key: PRNGKeyArray,
    points: Float[Array, "n d"],
    *,
    num_centers: int,
    num_candidates: int = 1024,
    per_round: int = 128,
) -> Int[Array, " _k"]:
    """Chooses points greedily, each time the one farthest from those chosen.

    Args:
      key: Draws the first point.
      points: Vectors, usually projected by `project`.
      num_centers: How many to choose.
      num_candidates: Candidates of a round; any number gives the same choice.
      per_round: Most choices of a round; any number gives the same choice.

    Returns:
      The points' numbers in the order of choice, all different.

    Raises:
      ValueError: If ``num_centers`` is not between 1 and ``n``, or another number is
        not positive.

    Example:
      >>> points = jnp.array([[0.0], [1.0], [10.0], [11.0], [5.0]])
      >>> chosen = coreset(jax.random.key(0), points, num_centers=3)
      >>> print(sorted(points[chosen, 0].tolist()))
      [0.0, 5.0, 11.0]
    """
    n = points.shape[0]
    if not 1 <= num_centers <= n:
        raise ValueError(f"num_centers must be between 1 and {n}, got {num_centers}")
    if min(num_candidates, per_round) < 1:
        raise ValueError("num_candidates and per_round must be positive")
    num_candidates = min(num_candidates, n)
    z = points - jnp.mean(points, axis=0, keepdims=True)
    first = jax.random.randint(key, (), 0, n, jnp.int32)
    gap = jnp.sum((z - z[first][None]) ** 2, axis=1).at[first].set(-1)
    state = _Greedy(gap, jnp.full((num_centers,), first), jnp.asarray(1))

    def more(state: _Greedy) -> Array:
        return state.num_chosen < num_centers

    def run(state: _Greedy) -> _Greedy:
        # One more than the candidates: the farthest of all others sets the threshold.
        top, ids = jax.lax.top_k(state.gap, min(num_candidates + 1, n))
        others = top[-1] if num_candidates < n else jnp.asarray(-2, top.dtype)
        ids = jnp.sort(ids[:num_candidates])  # Ties go to the lowest number.
        found = _choose(state, z, ids, others, per_round)
        gap = _update(state.gap, z, found.centers, found.num_chosen - state.num_chosen)
        new = jnp.arange(num_centers) < found.num_chosen
        # An out-of-range number drops the write of a place not chosen yet.
        gap = gap.at[jnp.where(new, found.chosen, n)].set(-1, mode="drop")
        return _Greedy(gap, found.chosen, found.num_chosen)

    return jax.lax.while_loop(more, run, state).chosen


def _choose(
    state: _Greedy, z: Array, ids: Array, others: Array, per_round: int
) -> _Round:
    """Runs one round: chooses among candidates while they must hold the farthest."""
    candidates, start = z[ids], state.num_chosen
    last = jnp.minimum(start + per_round, state.chosen.shape[0])

    def more(run: _Round) -> Array:
        sure = (jnp.max(run.gap) > others) | (run.num_chosen == start)
        return (run.num_chosen < last) & sure

    def choose(run: _Round) -> _Round:
        best = jnp.argmax(run.gap)
        center = candidates[best]
        gap = jnp.sum((candidates - center[None]) ** 2, axis=1)
        return _Round(
            jnp.minimum(run.gap, gap).at[best].set(-1),
            run.centers.at[run.num_chosen - start].set(center),
            run.chosen.at[run.num_chosen].set(ids[best]),
            run.num_chosen + 1,
        )

    centers = jnp.zeros((per_round, z.shape[1]), z.dtype)
    init = _Round(state.gap[ids], centers, state.chosen, start)
    return jax.lax.while_loop(more, choose, init)


def _update(gap: Array, z: Array, centers: Array, count: Array) -> Array:
    """Lowers the gap of every point to the nearest of the first ``count`` centres."""
    block = 16
    padding = -centers.shape[0] % block
    centers = jnp.pad(centers, ((0, padding), (0, 0)))
    norms = jnp.sum(centers**2, axis=1)
    norms = jnp.where(jnp.arange(norms.shape[0]) < count, norms, jnp.inf)

    def few(j: Array, gap: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(centers, j * block, block)
        offset = jax.lax.dynamic_slice_in_dim(norms, j * block, block)
        product = jnp.matmul(z, part.T, precision=HIGHEST)
        least = jnp.min(offset[None] - 2 * product, axis=1)
        return jnp.minimum(gap, jnp.maximum(least + size, 0))

    size = jnp.sum(z**2, axis=1)
    return jax.lax.fori_loop(0, (count + block - 1) // block, few, gap)


def _least(gap: Float[Array, "n c"], k: int) -> tuple[Array, Array]:
    """Returns the ``k`` least of each row and their columns, least first.

    The ``k`` least lie in the ``k`` groups of columns of least minima. Minima are fast
    and searches slow on a CPU, so that only those groups are searched.
    """
    n, c = gap.shape
    side = 64
    groups = jnp.pad(gap, ((0, 0), (0, -c % side)), constant_values=jnp.inf)
    groups = groups.reshape(n, -1, side)
    kept = min(k, groups.shape[1])
    _, ids = jax.lax.top_k(-jnp.min(groups, axis=2), kept)
    ids = jnp.sort(ids, axis=1)  # Ties go to the lowest column.
    few = jnp.take_along_axis(groups, ids[:, :, None], axis=1).reshape(n, -1)
    columns = ids[:, :, None] * side + jnp.arange(side, dtype=jnp.int32)[None, None]
    least, at = jax.lax.top_k(-few, k)
    return -least, jnp.take_along_axis(columns.reshape(n, -1), at, axis=1)


def _merge(
    best: tuple[Array, Array], gap: Array, rows: Array, k: int
) -> tuple[Array, Array]:
    """Keeps the ``k`` nearest of those found so far and those of a block."""
    least, column = _least(gap, k)
    gaps = jnp.concatenate([best[0], least], axis=1)
    found = jnp.concatenate([best[1], rows[jnp.minimum(column, len(rows) - 1)]], axis=1)
    least, column = jax.lax.top_k(-gaps, k)
    return -least, jnp.take_along_axis(found, column, axis=1)
