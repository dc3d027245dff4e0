"""Exact nearest component at a fraction of the work.

The dense way to ``argmin_k D_k(u)`` (paper, Eq. 1) costs ``N K d^2``. Most of it proves
the obvious: that a far component is far. A marginal of a Gaussian proves the same for
less. For any ``P (d, r)`` of full column rank

    (P'e)' (P' Sigma P)^-1 (P'e)  <=  e' Sigma^-1 e

so the leading ``r`` coordinates of all samples, rotated once, bound every distance from
below; a component whose bound plus ``log|Sigma_k| - 2 log pi_k`` exceeds the cost of
the best so far cannot win. With the marginal covariances factored by Cholesky the
bounds of 1, 2, ..., r coordinates are partial sums of one another, and a component is
abandoned as soon as it can be. What survives gets its full cost, grouped by component
(`gladjax.routing`). The labels are those of the dense argmin, and the least bound at
which a competitor was abandoned certifies it, sample by sample.

The coordinates are the principal axes of the samples. Any choice is correct; this one
prunes more than linear discriminants do, because components that differ in volume are
told apart by energy, not by the distance of their means.

Where no guess is given, the full costs of the components with the `GUESSES` nearest
means make the first threshold.

Bounds are computed in the precision of the mixture and lowered by more than their
rounding, full costs in the original coordinates, so rounding never prunes a winner.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``r`` leading coordinates,
``r1`` of them evaluated for all components.

Differs from the reference in: nothing that shows; the paper computes all the costs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import routing
from gladjax.covariance import PRECISION
from gladjax.kernels import pairs, search
from gladjax.mixture import AnyArray, GaussianMixture

CHUNK = 32768  # Samples whose candidates are held at once.
GUESSES = 4  # Nearest means whose components are tried first.
CAPACITY = 24  # Candidates kept for a sample before it is looked at again.
STAGES = (4, 8, 12, 16, 24, 32)  # Choices of the number of first rows.
TRIAL = 256  # Samples on which the choice is made.
VECTOR_COST = 0.12  # Cycles per entry of a first row (vectorised over components).
SURVIVOR_COST = 700.0  # Cycles per component that survives the first rows.
TASK = 32  # Pairs of one component that share a pass over its rows.
# Relative lowering of every bound, and absolute raising of every threshold.
SLACK = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
RAISE = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-9}


class Bounds(NamedTuple):
    """Whitened marginals of all components, on the host.

    Attributes:
      basis: Directions of the leading coordinates, ``(d, r)``.
      means: Means in these coordinates, ``(k, r)``.
      rows: Packed lower-triangular whitening rows, ``(k, r (r + 1) / 2)``.
      stage_means: Means in the first coordinates, ``(r1, k)``.
      stage_rows: Packed first rows, ``(r1 (r1 + 1) / 2, k)``.
      centre: Point that is taken from samples before they are rotated, ``(d,)``.
      constants: ``log|Sigma_k| - 2 log pi_k``, infinite for dead components, ``(k,)``.
      ids: Components of the mixture that these are, rising, ``(k,)``.
    """

    basis: np.ndarray
    means: np.ndarray
    rows: np.ndarray
    stage_means: np.ndarray
    stage_rows: np.ndarray
    centre: np.ndarray
    constants: np.ndarray
    ids: np.ndarray


class AssignInfo(NamedTuple):
    """How an assignment came about.

    Attributes:
      margin: For each sample, the least bound (or cost) of any other component minus
        the cost of the winner: never negative, which certifies the label.
      survivors: Components left per sample after the first rows, mean.
      evaluated: Full costs per sample, mean.
      rank: Leading coordinates ``r``.
      stage: First rows ``r1``.
    """

    margin: Float[np.ndarray, " n"]
    survivors: float
    evaluated: float
    rank: int
    stage: int


def principal_axes(features: np.ndarray, *, limit: int = 4096) -> np.ndarray:
    """Returns the directions of largest variance of a regular subsample.

    Args:
      features: Samples, ``(n, d)``.
      limit: Samples to look at, at most.

    Returns:
      ``(d, d)`` orthonormal columns, float64, in falling order of variance.
    """
    every = max(1, -(-len(features) // limit))
    sample = np.asarray(features[::every], np.float64)
    centred = sample - sample.mean(axis=0)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1]


def _rows(mixture: GaussianMixture, component: int) -> tuple[np.ndarray, np.ndarray]:
    first = int(np.asarray(mixture.offsets)[component])
    last = first + int(np.asarray(mixture.ranks)[component])
    rows = np.asarray(mixture.rows)[first:last].astype(np.float64)
    return rows, np.asarray(mixture.variances)[first:last].astype(np.float64)


def bounds(
    mixture: GaussianMixture,
    basis: np.ndarray,
    *,
    rank: int = 64,
    stage: int = 8,
    reuse: Bounds | None = None,
    changed: np.ndarray | None = None,
) -> Bounds:
    """Prepares the marginals of a mixture.

    Args:
      mixture: The mixture, on the host.
      basis: Directions of the leading coordinates, ``(d, >= rank)``.
      rank: Number of leading coordinates, at most ``d``.
      stage: Rows evaluated for all components.
      reuse: Bounds of an earlier mixture of the same components, in the same basis.
      changed: Components that differ from then, ``(m,)``; all by default.

    Returns:
      The marginals, factored in float64 and rounded to the mixture's precision, lowered
      by a relative `SLACK`.
    """
    means = np.asarray(mixture.means, np.float64)
    k, d = means.shape
    dtype = np.asarray(mixture.means).dtype
    if reuse is not None:
        rank = reuse.basis.shape[1]
        stage = reuse.stage_means.shape[0]
    rank = min(rank, d)
    basis = basis[:, :rank]
    centre = means.mean(axis=0) if reuse is None else reuse.centre.astype(np.float64)
    low_means = ((means - centre) @ basis).astype(dtype)
    triangle = np.tril_indices(rank)
    if reuse is not None:
        rows = reuse.rows.copy()
        components = np.arange(k) if changed is None else np.asarray(changed)
    else:
        rows = np.zeros((k, len(triangle[0])), dtype)
        components = np.arange(k)
    for chunk in np.array_split(components, max(1, len(components) // 128)):
        if len(chunk):
            marginal = np.stack([_marginal(mixture, int(c), basis) for c in chunk])
            lower = np.linalg.cholesky(marginal)
            inverse = np.linalg.inv(lower) * np.sqrt(1 - SLACK[dtype])
            rows[chunk] = inverse[:, triangle[0], triangle[1]].astype(dtype)
    first = min(stage, rank)
    return Bounds(
        basis=basis.astype(dtype),
        means=low_means,
        rows=rows,
        stage_means=np.ascontiguousarray(low_means[:, :first].T),
        stage_rows=np.ascontiguousarray(rows[:, : first * (first + 1) // 2].T),
        centre=centre.astype(dtype),
        constants=_constants(mixture),
        ids=np.arange(k, dtype=np.int32),
    )


def tune(
    marginals: Bounds, y: np.ndarray, threshold: np.ndarray, skip: np.ndarray
) -> Bounds:
    """Chooses how many rows are evaluated for all components at once.

    Counts, on a few samples, the components that survive each choice, and weighs the
    vector work of the rows against the scalar work of the survivors.

    Args:
      marginals: The marginals.
      y: Leading coordinates of the samples, ``(n, r)``.
      threshold: Largest cost of interest, ``(n,)``.
      skip: A position in the marginals to leave out for each sample, or -1.

    Returns:
      The same marginals with another number of first rows.
    """
    every = max(1, len(y) // TRIAL)
    y, threshold, skip = y[::every], threshold[::every], skip[::every]
    k, rank = marginals.means.shape
    best, least = marginals, np.inf
    for stage in sorted({min(stage, rank) for stage in STAGES}):
        trial = _staged(marginals, stage)
        *_, survivors = search.within(y, *_arrays(trial), threshold, skip, 1, 16)
        vector = k * stage * (stage + 1) / 2 * VECTOR_COST
        work = vector + float(survivors.mean()) * SURVIVOR_COST
        if work < least:
            best, least = trial, work
    return best


def _staged(marginals: Bounds, stage: int) -> Bounds:
    """Returns the marginals with another number of first rows."""
    packed = stage * (stage + 1) // 2
    return marginals._replace(
        stage_means=np.ascontiguousarray(marginals.means[:, :stage].T),
        stage_rows=np.ascontiguousarray(marginals.rows[:, :packed].T),
    )


def restrict(marginals: Bounds, components: np.ndarray) -> Bounds:
    """Returns the marginals of some components only.

    Args:
      marginals: Marginals of all components.
      components: Those to keep, rising, ``(m,)``.

    Returns:
      Marginals whose ``ids`` are the given components.
    """
    return marginals._replace(
        means=marginals.means[components],
        rows=marginals.rows[components],
        stage_means=np.ascontiguousarray(marginals.stage_means[:, components]),
        stage_rows=np.ascontiguousarray(marginals.stage_rows[:, components]),
        constants=marginals.constants[components],
        ids=marginals.ids[components],
    )


def _marginal(
    mixture: GaussianMixture, component: int, basis: np.ndarray
) -> np.ndarray:
    """Returns ``P' Sigma_k P``."""
    rows, variances = _rows(mixture, component)
    noise = float(np.asarray(mixture.noise)[component])
    if len(rows) == basis.shape[0]:
        low = np.linalg.solve(rows.T, basis)
        return low.T @ low
    low = rows @ basis
    excess = variances * (variances - noise)
    return noise * (basis.T @ basis) + (low.T * excess) @ low


def nearest(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
) -> tuple[Int[AnyArray, " n"], Float[AnyArray, " n"]]:
    """Returns the component of least cost of every sample (Eq. 1).

    Outside of a trace and on a CPU the pruned search runs in compiled kernels on the
    host; inside ``jit`` or ``vmap``, and on accelerators, in JAX.

    Args:
      mixture: The mixture.
      features: Samples.
      start: A guess for each sample, -1 for none; it changes the time, never the
        answer.

    Returns:
      The labels of the dense argmin, the first of equals, and the costs ``D_k(u)``.
    """
    leaves = (*jax.tree.leaves(mixture), features, start)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if traced or jax.default_backend() != "cpu":
        return dense(mixture, features)
    labels, cost, _ = nearest_info(mixture, features, start=start)
    return labels, cost


def nearest_info(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    marginals: Bounds | None = None,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], AssignInfo]:
    """Returns what `nearest` returns, with a certificate and counts (on the host).

    Args:
      mixture: The mixture, concrete.
      features: Samples; a memory-mapped array is read in chunks.
      start: A guess for each sample, -1 for none.
      marginals: The mixture's `bounds`, if they are at hand.

    Returns:
      Labels, costs, and how they came about.
    """
    mixture = jax.tree.map(np.asarray, mixture)
    if marginals is None:
        marginals = bounds(mixture, principal_axes(features))
    n = features.shape[0]
    labels = np.empty(n, np.int32)
    cost, margin = (np.empty(n, mixture.means.dtype) for _ in range(2))
    survivors = evaluated = 0
    for first in range(0, n, CHUNK):
        part = slice(first, min(first + CHUNK, n))
        samples = np.asarray(features[part])
        guess = np.full(len(samples), -1) if start is None else np.asarray(start[part])
        y = project(marginals, samples)
        settled = _settle(mixture, marginals, samples, guess.astype(np.int32))
        if not first and len(samples) > TRIAL:
            marginals = tune(marginals, y, settled[1], settled[0])
        found = _compete(mixture, marginals, samples, y, *settled)
        labels[part], cost[part], margin[part] = found[:3]
        survivors += found[3]
        evaluated += found[4] + len(samples)
    info = AssignInfo(
        margin=margin,
        survivors=survivors / max(n, 1),
        evaluated=evaluated / max(n, 1),
        rank=marginals.means.shape[1],
        stage=marginals.stage_means.shape[0],
    )
    return labels, cost, info


def _settle(
    mixture: GaussianMixture,
    marginals: Bounds,
    samples: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a living component for every sample, and its full cost."""
    labels = labels.copy()
    labels[~np.isfinite(marginals.constants[labels])] = -1
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        labels[unknown] = _guess(mixture, samples[unknown])
    return labels, pair_costs(mixture, samples, np.arange(len(samples)), labels)


def _guess(mixture: GaussianMixture, samples: np.ndarray) -> np.ndarray:
    """Returns the best of the components with the nearest means."""
    alive = np.flatnonzero(np.isfinite(mixture.log_weights))
    means = mixture.means[alive]
    few = min(GUESSES, len(alive))
    half = 0.5 * np.sum(np.square(means), axis=1)
    near = np.empty((len(samples), few), np.int64)
    for first in range(0, len(samples), 4096):
        part = slice(first, first + 4096)
        distance = half - samples[part] @ means.T
        near[part] = np.argpartition(distance, few - 1, axis=1)[:, :few]
    near = alive[near].astype(np.int32)
    owner = np.repeat(np.arange(len(samples)), few)
    cost = pair_costs(mixture, samples, owner, near.ravel()).reshape(near.shape)
    return near[np.arange(len(samples)), np.argmin(cost, axis=1)]


def _compete(
    mixture: GaussianMixture,
    marginals: Bounds,
    samples: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    cost: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Lets the components of the marginals compete with the labels at hand.

    Returns:
      Labels, costs, margins, survivors of the first rows and full costs (in all).
    """
    position = np.full(mixture.means.shape[0], -1, np.int32)
    position[marginals.ids] = np.arange(len(marginals.ids), dtype=np.int32)
    owner, component, margin, survivors = candidates(
        marginals, y, cost, skip=position[labels]
    )
    rival = pair_costs(mixture, samples, owner, component)
    best, winner = cost.copy(), labels.copy()
    np.minimum.at(best, owner, rival)
    # Pairs are sorted by sample, then component: the first of equals wins.
    wins = rival == best[owner]
    winner[owner[wins][::-1]] = component[wins][::-1]
    tied = np.flatnonzero(best == cost)
    winner[tied] = np.minimum(winner[tied], labels[tied])
    # The margin is to the least of all other costs and bounds.
    others = np.where(component == winner[owner], np.inf, rival)
    np.minimum.at(margin, owner, others.astype(margin.dtype))
    margin = np.where(winner == labels, margin, np.minimum(margin, cost))
    return winner, best, margin - best, survivors, len(owner)


def project(marginals: Bounds, samples: np.ndarray) -> np.ndarray:
    """Returns the leading coordinates of samples, ``(n, r)``."""
    dtype = marginals.basis.dtype
    return (samples.astype(dtype, copy=False) - marginals.centre) @ marginals.basis


def candidates(
    marginals: Bounds,
    y: np.ndarray,
    threshold: np.ndarray,
    *,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Lists the components that may cost no more than a threshold.

    Args:
      marginals: Bounds of the components to look at.
      y: Leading coordinates of the samples, ``(n, r)``.
      threshold: Largest cost of interest, ``(n,)``.
      skip: Position in the marginals to leave out for each sample, or -1, ``(n,)``.

    Returns:
      Pairs as two arrays, sample (in rising order) and component (rising within a
      sample); the least bound above each threshold, ``(n,)``; and how many components
      survived the first rows, in all.
    """
    n = len(y)
    dtype = threshold.dtype
    raised = threshold + RAISE[dtype] + 10 * np.finfo(dtype).eps * np.abs(threshold)
    skip = np.full(n, -1, np.int32) if skip is None else skip.astype(np.int32)
    arrays = _arrays(marginals)
    found, ids, margin, survivors = search.within(
        y, *arrays, raised, skip, CAPACITY, 64
    )
    rows, columns = np.nonzero(np.arange(CAPACITY)[None, :] < found[:, None])
    owner, component = rows, ids[rows, columns]
    many = np.flatnonzero(found > CAPACITY)
    if len(many):
        lists = [(owner[~np.isin(owner, many)], component[~np.isin(owner, many)])]
        for part in np.array_split(many, -(-len(many) // 256)):
            width = int(found[part].max())
            found_, ids_, _, _ = search.within(
                y[part], *arrays, raised[part], skip[part], width, 4
            )
            rows, columns = np.nonzero(np.arange(width)[None, :] < found_[:, None])
            lists.append((part[rows], ids_[rows, columns]))
        owner = np.concatenate([pair[0] for pair in lists])
        component = np.concatenate([pair[1] for pair in lists])
        order = np.argsort(owner, kind="stable")
        owner, component = owner[order], component[order]
    return owner, marginals.ids[component], margin, int(survivors.sum())


def pair_costs(
    mixture: GaussianMixture,
    samples: np.ndarray,
    owner: np.ndarray,
    component: np.ndarray,
    *,
    constants: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the full cost of (sample, component) pairs.

    Args:
      mixture: The mixture, on the host.
      samples: ``(n, d)``.
      owner: Sample of each pair, ``(p,)``.
      component: Component of each pair, ``(p,)``.
      constants: What to add to the distance, ``(k,)``; by default
        ``log|Sigma_k| - 2 log pi_k``.

    Returns:
      The cost of each pair, ``(p,)``.
    """
    order, starts = routing.group(component, mixture.means.shape[0])
    out = np.empty(len(owner), mixture.means.dtype)
    out[order] = pairs.costs(
        samples.astype(mixture.means.dtype, copy=False),
        owner[order],
        routing.tasks(starts, size=TASK),
        mixture.means,
        mixture.rows,
        mixture.variances,
        mixture.offsets,
        mixture.ranks,
        mixture.noise,
        _constants(mixture) if constants is None else constants,
    )
    return out


def _constants(mixture: GaussianMixture) -> np.ndarray:
    return mixture.log_dets - 2 * mixture.log_weights


def _arrays(marginals: Bounds) -> tuple[np.ndarray, ...]:
    return (
        marginals.stage_means,
        marginals.stage_rows,
        marginals.means,
        marginals.rows,
        marginals.constants,
    )


def dense(
    mixture: GaussianMixture, features: Float[AnyArray, "n d"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Returns labels and costs by computing every cost, component after component.

    Args:
      mixture: The mixture.
      features: Samples.

    Returns:
      The labels, the first of equals, and the costs; memory is ``O(n d)``.
    """
    features = jnp.asarray(features)
    n = features.shape[0]

    def visit(best: tuple[Array, Array], index: Array, distance: Array) -> _Best:
        cost = distance + fixed[index]
        labels, least = best
        better = cost < least
        labels = jnp.where(better, index, labels)
        return labels, jnp.where(better, cost, least)

    fixed = jnp.asarray(mixture.log_dets) - 2 * jnp.asarray(mixture.log_weights)
    first = (jnp.zeros((n,), jnp.int32), jnp.full((n,), jnp.inf, fixed.dtype))
    step = _scan(mixture, features)
    (labels, cost), _ = jax.lax.scan(
        lambda best, part: (visit(best, part[0], step(part)), None),
        first,
        _components(mixture),
    )
    return labels, cost


def distances(
    mixture: GaussianMixture, features: Float[AnyArray, "n d"]
) -> Float[Array, "n k"]:
    """Returns the squared Mahalanobis distances of samples to all components.

    Args:
      mixture: The mixture.
      features: Samples.

    Returns:
      All distances, computed component after component.
    """
    step = _scan(mixture, jnp.asarray(features))
    parts = _components(mixture)
    return jax.lax.scan(lambda c, part: (c, step(part)), None, parts)[1].T


_Best = tuple[Array, Array]


def _components(mixture: GaussianMixture) -> tuple[Array, ...]:
    k = mixture.means.shape[0]
    fields = (mixture.means, mixture.offsets, mixture.ranks, mixture.noise)
    return (jnp.arange(k, dtype=jnp.int32), *(jnp.asarray(f) for f in fields))


def _scan(
    mixture: GaussianMixture, features: Array
) -> Callable[[tuple[Array, ...]], Array]:
    """Returns a function from one of `_components` to the samples' distances."""
    d = features.shape[1]
    rows, variances = jnp.asarray(mixture.rows), jnp.asarray(mixture.variances)
    padded = jnp.concatenate([rows, jnp.zeros((d, d), rows.dtype)])
    spread = jnp.concatenate([variances, jnp.ones((d,), variances.dtype)])

    def distance(part: tuple[Array, ...]) -> Array:
        _, mean, offset, rank, noise = part
        e = features - mean[None, :]
        used = jnp.arange(d, dtype=jnp.int32) < rank
        own = jax.lax.dynamic_slice_in_dim(padded, offset, d)
        own = jnp.where(used[:, None], own, 0)
        variance = jax.lax.dynamic_slice_in_dim(spread, offset, d)
        y = jnp.matmul(e, own.T, precision=PRECISION)
        back = jnp.matmul(y * variance[None, :], own, precision=PRECISION)
        outside = jnp.sum(jnp.square(e - back), axis=1) / noise
        return jnp.sum(jnp.square(y), axis=1) + jnp.where(rank < d, outside, 0)

    return distance


class Tracker:
    """The E-step of successive mixtures, computing only what may have changed.

    A sample whose component is as it was keeps its cost, and only components that
    changed can win it. (All living weights are divided by the same number when a
    component dies, so the others stay ordered.)

    Args:
      features: Samples, ``(n, d)``, the same at every call.
      valid: Samples that count, ``(n,)``.
    """

    def __init__(self, features: np.ndarray, valid: np.ndarray) -> None:
        """Chooses the leading coordinates and keeps a reference to the samples."""
        self._features = features
        self._used = np.flatnonzero(valid)
        self._basis = principal_axes(features)
        self._marginals: Bounds | None = None
        self._cost: np.ndarray | None = None
        self._constants = np.zeros(0)

    def __call__(
        self, mixture: GaussianMixture, labels: np.ndarray, changed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Assigns all valid samples.

        Args:
          mixture: The mixture, NumPy arrays.
          labels: The last assignment, -1 for invalid samples, ``(n,)``.
          changed: Components that differ from the last call's mixture.

        Returns:
          Labels, costs (0 for invalid samples), and the survivors of the first rows
          and the full costs per sample.
        """
        self._marginals = bounds(
            mixture, self._basis, reuse=self._marginals, changed=changed
        )
        n = len(labels)
        new_labels, new_cost = labels.copy(), np.zeros(n, mixture.means.dtype)
        dirty = np.ones(n, bool)
        if self._cost is not None:
            touched = np.zeros(len(mixture.means), bool)
            touched[changed] = True
            dirty = touched[labels]
            fixed = np.isfinite(self._constants) & ~touched
            shift = np.zeros_like(self._constants)
            shift[fixed] = self._marginals.constants[fixed] - self._constants[fixed]
            new_cost = self._cost + shift[labels]
        some = restrict(self._marginals, changed)
        survivors = evaluated = 0
        for first in range(0, len(self._used), CHUNK):
            index = self._used[first : first + CHUNK]
            samples = np.asarray(self._features[index])
            y = project(self._marginals, samples)
            for rows, anew in (
                (np.flatnonzero(dirty[index]), True),
                (np.flatnonzero(~dirty[index]), False),
            ):
                own, x, z = index[rows], samples[rows], y[rows]
                if anew:
                    rivals = self._marginals
                    settled = _settle(mixture, rivals, x, labels[own])
                    evaluated += len(own)
                    if not first and len(own) > TRIAL:
                        rivals = tune(rivals, z, settled[1], settled[0])
                        self._marginals = rivals
                else:
                    rivals, settled = some, (labels[own], new_cost[own])
                found = _compete(mixture, rivals, x, z, *settled)
                new_labels[own], new_cost[own] = found[:2]
                survivors += found[3]
                evaluated += found[4]
        self._cost, self._constants = new_cost, self._marginals.constants
        count = max(len(self._used), 1)
        return new_labels, new_cost, (survivors / count, evaluated / count)


def local_candidates(
    marginals: Bounds,
    mixture: GaussianMixture,
    y: np.ndarray,
    place: np.ndarray,
    active: tuple[np.ndarray, np.ndarray, np.ndarray],
    threshold: np.ndarray | None,
    *,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lists the active components that may cost no more than a threshold.

    Args:
      marginals: Bounds of all components.
      mixture: The mixture, on the host.
      y: Leading coordinates of the samples, ``(n, r)``.
      place: Position of each sample, ``(n,)``.
      active: Starts, components and log-weights of a list of active components per
        position.
      threshold: Largest cost ``distance + log|Sigma_k| - 2 log pi_k(x)`` of interest,
        ``(n,)``; by default only the component of least bound is listed.
      skip: A component to leave out for each sample, or -1, ``(n,)``.

    Returns:
      Pairs as two arrays: sample (rising) and entry in the list of active components
      (rising within a sample).
    """
    starts, components, log_weights = active
    addends = mixture.log_dets[components] - 2 * log_weights
    place = place.astype(np.int32)
    arguments = (y, place, starts, components, addends, marginals.means, marginals.rows)
    if threshold is None:
        entry = search.local_nearest(*arguments, 64)
        return np.arange(len(y)), entry
    dtype = y.dtype
    raised = threshold + RAISE[dtype] + 10 * np.finfo(dtype).eps * np.abs(threshold)
    skip = np.full(len(y), -1, np.int32) if skip is None else skip.astype(np.int32)
    found, entries = search.local_within(*arguments, raised, skip, CAPACITY, 64)
    rows, columns = np.nonzero(np.arange(CAPACITY)[None, :] < found[:, None])
    owner, entry = rows, entries[rows, columns]
    many = np.flatnonzero(found > CAPACITY)
    if len(many):
        keep = found[owner] <= CAPACITY
        lists = [(owner[keep], entry[keep])]
        for part in np.array_split(many, -(-len(many) // 256)):
            width = int(found[part].max())
            more = (y[part], place[part], *arguments[2:], raised[part], skip[part])
            found_, entries_ = search.local_within(*more, width, 4)
            rows, columns = np.nonzero(np.arange(width)[None, :] < found_[:, None])
            lists.append((part[rows], entries_[rows, columns]))
        owner = np.concatenate([pair[0] for pair in lists])
        entry = np.concatenate([pair[1] for pair in lists])
        order = np.argsort(owner, kind="stable")
        owner, entry = owner[order], entry[order]
    return owner, entry
