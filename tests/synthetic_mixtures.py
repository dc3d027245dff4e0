"""Samples with known structure, for the tests of the statistics (NumPy only)."""

import numpy as np


def covariances(rng, k, d, *, spread=1.0):
    """Random positive definite matrices with condition numbers of some tens."""
    A = rng.normal(size=(k, d, d)) / np.sqrt(d)
    scale = np.exp(spread * rng.normal(size=(k, 1, 1)) / 2)
    return scale * (A @ np.swapaxes(A, 1, 2) + 0.2 * np.eye(d))


def moments(rng, k, d, *, distance=3.0, dead=0):
    """Weights, means and covariances; the first ``dead`` components have weight 0."""
    weights = rng.uniform(0.5, 2.0, size=k)
    weights[:dead] = 0
    means = distance * rng.normal(size=(k, d)) / np.sqrt(d)
    return weights / weights.sum(), means, covariances(rng, k, d)


def clusters(rng, counts, d, *, distance=6.0):
    """Samples of Gaussians of different shapes, and where each came from."""
    k = len(counts)
    means = distance * rng.normal(size=(k, d)) / np.sqrt(d)
    roots = np.linalg.cholesky(covariances(rng, k, d))
    labels = np.repeat(np.arange(k), counts)
    order = rng.permutation(len(labels))
    labels = labels[order]
    noise = rng.normal(size=(len(labels), d))
    samples = means[labels] + np.einsum("nij,nj->ni", roots[labels], noise)
    return samples, labels


def dense(fitted):
    """The covariances (k, d, d) that a compact mixture stands for, in float64."""
    means = np.asarray(fitted.means)
    k, d = means.shape
    result = np.zeros((k, d, d))
    for c in range(k):
        first, rank = int(fitted.offsets[c]), int(fitted.ranks[c])
        rows = np.asarray(fitted.rows[first : first + rank], np.float64)
        noise, scale = float(fitted.noise[c]), float(fitted.scales[c])
        if rank == d:
            result[c] = np.linalg.inv(rows.T @ rows)
        else:
            result[c] = noise * np.eye(d) + scale * rows.T @ rows
    return result
