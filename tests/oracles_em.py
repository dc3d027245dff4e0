"""A literal twin of EM, in float64, loops and all; it never imports gladjax.

A mixture is a triple ``(weights (k,), means (k, d), covariances (k, d, d))`` as in
`oracles`; components whose effective count is below ``min_count`` are dropped (R3).
"""

import math

import numpy as np
import oracles


def responsibilities(samples, mixture):
    """The share of each component in each sample (n, k), and the log-densities (n,)."""
    weights, means, covariances = mixture
    shares, densities = np.zeros((len(samples), len(weights))), np.zeros(len(samples))
    for i, u in enumerate(samples):
        terms = [
            math.log(weights[k]) + oracles.log_density(u, means[k], covariances[k])
            if weights[k] > 0
            else -math.inf
            for k in range(len(weights))
        ]
        densities[i] = oracles.log_sum_exp(terms)
        shares[i] = [math.exp(term - densities[i]) for term in terms]
    return shares, densities


def step(samples, mixture, *, valid=None, min_count=2, rho=None):
    """One step: the next mixture, the responsibilities and the likelihood before."""
    samples = np.asarray(samples, np.float64)
    if valid is not None:
        samples = samples[valid]
    n, d = samples.shape
    shares, densities = responsibilities(samples, mixture)
    floor = oracles.floor_variance(samples)
    k = shares.shape[1]
    counts = shares.sum(axis=0)
    survivors = sum(c for c in counts if c >= min_count)
    weights, means = np.zeros(k), np.zeros((k, d))
    covariances = np.stack([np.eye(d)] * k)
    for c in range(k):
        if counts[c] < min_count:
            continue
        weights[c] = counts[c] / survivors
        for i in range(n):
            means[c] += shares[i, c] * samples[i] / counts[c]
        S = np.zeros((d, d))
        for i in range(n):
            e = samples[i] - means[c]
            S += shares[i, c] * np.outer(e, e) / counts[c]
        covariances[c] = oracles.shrunk(S, counts[c], floor, rho)
    return (weights, means, covariances), shares, math.fsum(densities) / n


def fit(samples, mixture, *, max_steps=100, tolerance=1e-6, **options):
    """EM from a given start: the mixture and the likelihoods."""
    history = []
    while len(history) < max_steps and not oracles.stops(history, tolerance):
        mixture, _, likelihood = step(samples, mixture, **options)
        history.append(likelihood)
    return mixture, history
