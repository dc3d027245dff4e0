"""Whitened marginals of all components: lower bounds of their costs.

See `gladjax.assign` for the idea. The marginal covariances ``P' Sigma_k P`` are formed
from the rows of the mixture, factored in float64, and rounded.

Notation: ``k`` components, ``d`` features, ``r`` leading coordinates, ``r1`` of them
evaluated for all components.
"""

from typing import NamedTuple

import numpy as np
import threadpoolctl

from gladjax.kernels import search
from gladjax.mixture import GaussianMixture

# Relative lowering of every bound, and absolute raising of every threshold.
SLACK = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
RAISE = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-9}
STAGES = (4, 8, 12, 16, 24, 32)  # Choices of the number of first rows.
TRIAL = 256  # Samples on which the choice is made.
VECTOR_COST = 0.12  # Cycles per entry of a first row (vectorised over components).
SURVIVOR_COST = 700.0  # Cycles per component that survives the first rows.

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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


def principal_axes(
    features: np.ndarray, *, valid: np.ndarray | None = None, limit: int = 4096
) -> np.ndarray:
    """Returns the directions of largest variance of a regular subsample.

    Args:
      features: Samples, ``(n, d)``.
      valid: Samples that count, ``(n,)``; all by default.
      limit: Samples to look at, at most.

    Returns:
      ``(d, d)`` orthonormal columns, float64, in falling order of variance.
    """
    if valid is None:
        every = max(1, -(-len(features) // limit))
        sample = np.asarray(features[::every], np.float64)
    else:
        index = np.flatnonzero(valid)
        every = max(1, -(-len(index) // limit))
        sample = np.asarray(features[index[::every]], np.float64)
    centred = sample - sample.mean(axis=0)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1]


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
    # The products are small: threads of BLAS would mostly wait for each other.
    with threadpoolctl.threadpool_limits(1, "blas"):
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
        constants=constants(mixture),
        ids=np.arange(k, dtype=np.int32),
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
        *_, survivors = search.within(y, *arrays(trial), threshold, skip, 1, 16)
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


def project(marginals: Bounds, samples: np.ndarray) -> np.ndarray:
    """Returns the leading coordinates of samples, ``(n, r)``."""
    dtype = marginals.basis.dtype
    return (samples.astype(dtype, copy=False) - marginals.centre) @ marginals.basis


def constants(mixture: GaussianMixture) -> np.ndarray:
    """Returns ``log|Sigma_k| - 2 log pi_k``, infinite for dead components."""
    return mixture.log_dets - 2 * mixture.log_weights


def arrays(marginals: Bounds) -> Arrays:
    """Returns what the search kernels need of the marginals."""
    return (
        marginals.stage_means,
        marginals.stage_rows,
        marginals.means,
        marginals.rows,
        marginals.constants,
    )


def _rows(mixture: GaussianMixture, component: int) -> tuple[np.ndarray, np.ndarray]:
    first = int(np.asarray(mixture.offsets)[component])
    last = first + int(np.asarray(mixture.ranks)[component])
    rows = np.asarray(mixture.rows)[first:last].astype(np.float64)
    return rows, np.asarray(mixture.variances)[first:last].astype(np.float64)


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
