"""Literal twins of the statistics, in float64, loops and all, as the paper has them.

This module never imports gladjax. Equation numbers are those of Artola et al., "GLAD",
WACV 2023; R1 to R6 are the project's readings of what the paper leaves open:

  R1  the sign of ``2 log pi_k`` in Eqs. 1 and 10 is minus;
  R2  the OAS intensity is 1 where its denominator is 0;
  R3  components of fewer than ``min_count`` samples are dropped, the weights divided
      by the surviving count, and a covariance of 0 becomes ``f I``;
  R4  the start is given, here always;
  R5  maps are brought to the finest grid with half-pixel centres;
  R6  the stopping rule looks at the mean of ``max_k log(pi_k N_k)``.

A mixture is a triple ``(weights (k,), means (k, d), covariances (k, d, d))``; a dead
component has weight 0 and its moments are never looked at.
"""

import math

import numpy as np


def oas(S, n):
    """Eq. 9: the intensity of oracle-approximating shrinkage."""
    d = len(S)
    trace = math.fsum(S[i, i] for i in range(d))
    trace_of_square = math.fsum(S[i, j] * S[j, i] for i in range(d) for j in range(d))
    # tr(S^2) - tr(S)^2 / d, summed without cancellation: the squares of S - tr(S)/d I.
    spread = math.fsum(
        (S[i, j] - (trace / d if i == j else 0.0)) ** 2
        for i in range(d)
        for j in range(d)
    )
    denominator = (n + 1 - 2 / d) * spread
    if denominator <= 0:
        return 1.0  # R2
    return min(((1 - 2 / d) * trace_of_square + trace**2) / denominator, 1.0)


def scatter(samples):
    """Eqs. 2 and 3: the mean, and the scatter over n."""
    samples = np.asarray(samples, np.float64)
    n, d = samples.shape
    if all(np.array_equal(u, samples[0]) for u in samples):
        return samples[0].copy(), np.zeros((d, d))  # Exactly, whatever the mean rounds.
    mean = np.array([math.fsum(samples[:, j]) / n for j in range(d)])
    S = np.zeros((d, d))
    for u in samples:
        S += np.outer(u - mean, u - mean)
    return mean, S / n


def shrunk(S, n, floor, rho=None):
    """Eq. 8: the shrunk covariance; ``floor I`` where S is 0 (R3).

    With ``rho`` = 0 (the ablation without shrinkage) the floor stands for the noise.
    """
    d = len(S)
    if not np.any(S):
        return floor * np.eye(d)
    rho = oas(S, n) if rho is None else rho
    noise = rho * np.trace(S) / d
    return (1 - rho) * S + (noise if noise > 0 else floor) * np.eye(d)


def floor_variance(samples):
    """R3: a millionth of the mean variance of all samples."""
    samples = np.asarray(samples, np.float64)
    return 1e-6 * np.trace(scatter(samples)[1]) / samples.shape[1]


def cost(u, weight, mean, covariance):
    """Eq. 1 with R1: what it costs to give sample u to a component."""
    if weight == 0:
        return math.inf
    e = np.asarray(u, np.float64) - mean
    log_det = np.linalg.slogdet(covariance)[1]
    return e @ np.linalg.solve(covariance, e) + log_det - 2 * math.log(weight)


def all_costs(samples, mixture):
    """Eq. 1 for every sample and component, (n, k)."""
    weights, means, covariances = mixture
    return np.array(
        [
            [cost(u, weights[k], means[k], covariances[k]) for k in range(len(weights))]
            for u in samples
        ]
    )


def assign(samples, mixture):
    """Eq. 1: the component of least cost of each sample, the first of equals."""
    every = all_costs(samples, mixture)
    labels = np.array([int(np.argmin(row)) for row in every])
    return labels, np.array([row[k] for row, k in zip(every, labels, strict=True)])


def maximize(samples, labels, k, *, min_count=2, rho=None):
    """Eqs. 2, 3, 8 and 9: the mixture of an assignment; label -1 is not used."""
    samples, labels = np.asarray(samples, np.float64), np.asarray(labels)
    d = samples.shape[1]
    floor = floor_variance(samples[labels >= 0])
    members = [[i for i in range(len(labels)) if labels[i] == c] for c in range(k)]
    survivors = sum(len(own) for own in members if len(own) >= min_count)
    weights, means = np.zeros(k), np.zeros((k, d))
    covariances = np.stack([np.eye(d)] * k)
    for c, own in enumerate(members):
        if len(own) >= min_count:
            weights[c] = len(own) / survivors  # R3
            means[c], S = scatter(samples[own])
            covariances[c] = shrunk(S, len(own), floor, rho)
    return weights, means, covariances


def log_likelihood(costs, d):
    """R6: the mean over samples of max_k log(pi_k N_k), from the least costs."""
    return math.fsum(-0.5 * (c + d * math.log(2 * math.pi)) for c in costs) / len(costs)


def kmle_step(samples, mixture, *, valid=None, min_count=2, rho=None):
    """One step of K-MLE: the next mixture, the labels and the likelihood before."""
    samples = np.asarray(samples, np.float64)
    valid = np.ones(len(samples), bool) if valid is None else np.asarray(valid)
    labels = np.full(len(samples), -1)
    labels[valid], costs = assign(samples[valid], mixture)
    likelihood = log_likelihood(costs, samples.shape[1])
    k = len(mixture[0])
    fitted = maximize(samples, labels, k, min_count=min_count, rho=rho)
    return fitted, labels, likelihood


def stops(history, tolerance):
    """Whether the relative change of the likelihood is below the tolerance."""
    if len(history) < 2:
        return False
    return abs(history[-1] - history[-2]) <= tolerance * abs(history[-2])


def kmle(samples, mixture, *, max_steps=100, tolerance=1e-6, **options):
    """K-MLE from a given start: the mixture, the labels of each step, likelihoods."""
    trail, history = [], []
    while len(history) < max_steps and not stops(history, tolerance):
        mixture, labels, likelihood = kmle_step(samples, mixture, **options)
        trail.append(labels)
        history.append(likelihood)
    return mixture, trail, history


def disc(y, x, height, width, radius):
    """The positions within the radius of (y, x), cut at the border."""
    return [
        (j, i)
        for j in range(height)
        for i in range(width)
        if (j - y) ** 2 + (i - x) ** 2 <= radius**2
    ]


def local_step(features, mixture, local, radius, valid):
    """Eqs. 10 to 12 once: the next weights (h, w, k), labels (m, h, w), likelihood."""
    weights, means, covariances = mixture
    count, height, width, d = features.shape
    k = len(weights)
    labels, costs = np.full((count, height, width), -1), []
    inverses = [np.linalg.inv(c) for c in covariances]
    log_dets = [np.linalg.slogdet(c)[1] for c in covariances]
    for m, y, x in np.argwhere(valid):
        row = np.full(k, math.inf)
        for c in range(k):
            if local[y, x, c] > 0:
                e = features[m, y, x] - means[c]
                row[c] = e @ inverses[c] @ e + log_dets[c]
                row[c] -= 2 * math.log(local[y, x, c])
        labels[m, y, x] = np.argmin(row)  # Eq. 10, with R1
        costs.append(row.min())
    new = np.zeros((height, width, k))
    for y in range(height):
        for x in range(width):
            for j, i in disc(y, x, height, width, radius):
                for m in range(count):
                    if valid[m, j, i]:
                        new[y, x, labels[m, j, i]] += 1  # Eq. 11
            total = new[y, x].sum()
            # Eq. 12; where nothing valid is near, nothing is learned.
            new[y, x] = new[y, x] / total if total else local[y, x]
    return new, labels, log_likelihood(costs, d)


def local_weights(
    features, mixture, *, radius=1.0, valid=None, max_steps=100, tolerance=1e-6
):
    """Section 3.2: weights (h, w, k) of every position, the labels, likelihoods."""
    features = np.asarray(features, np.float64)
    count, height, width, _ = features.shape
    if valid is None:
        valid = np.ones((count, height, width), bool)
    local = np.broadcast_to(mixture[0], (height, width, len(mixture[0]))).copy()
    labels, history = None, []
    while len(history) < max_steps and not stops(history, tolerance):
        local, labels, likelihood = local_step(features, mixture, local, radius, valid)
        history.append(likelihood)
    return local, labels, history


def log_density(u, mean, covariance):
    """The logarithm of a Gaussian density."""
    return -0.5 * (cost(u, 1.0, mean, covariance) + len(u) * math.log(2 * math.pi))


def log_sum_exp(terms):
    """The logarithm of a sum, with the largest term taken out."""
    top = max(terms)
    if top == -math.inf:
        return -math.inf
    return top + math.log(math.fsum(math.exp(t - top) for t in terms))


def log_prob_map(features, mixture, local):
    """The log-probability of one image's features (h, w, d) at every position."""
    features = np.asarray(features, np.float64)
    height, width, _ = features.shape
    _, means, covariances = mixture
    covariances = np.asarray(covariances, np.float64)
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            result[y, x] = log_sum_exp(
                [
                    math.log(local[y, x, c])
                    + log_density(features[y, x], means[c], covariances[c])
                    for c in range(local.shape[2])
                    if local[y, x, c] > 0
                ]
            )
    return result


def upsample(values, height, width):
    """Bilinear interpolation with half-pixel centres, the edge repeated (R5)."""
    rows, columns = values.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            j = min(max((y + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
            i = min(max((x + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            j0, i0 = int(j), int(i)
            j1, i1 = min(j0 + 1, rows - 1), min(i0 + 1, columns - 1)
            b, a = j - j0, i - i0
            result[y, x] = (1 - b) * ((1 - a) * values[j0, i0] + a * values[j0, i1])
            result[y, x] += b * ((1 - a) * values[j1, i0] + a * values[j1, i1])
    return result


def product(maps):
    """Layers multiplied: log-maps brought to the finest grid and summed (R5)."""
    height = max(len(m) for m in maps)
    width = max(len(m[0]) for m in maps)
    return sum(upsample(np.asarray(m, np.float64), height, width) for m in maps)


def image_score(log_map, mask, q=0.005):
    """Minus the q quantile of the log-map inside the mask, by linear interpolation."""
    inside = sorted(float(v) for v, m in zip(log_map.flat, mask.flat, strict=True) if m)
    place = q * (len(inside) - 1)
    low = math.floor(place)
    high = min(low + 1, len(inside) - 1)
    return -(inside[low] + (place - low) * (inside[high] - inside[low]))


def information(shares, overall):
    """Relative entropy of weights (h, w, k) to the global ones, mean over positions."""
    h, w, k = shares.shape
    total = 0.0
    for row in range(h):
        for column in range(w):
            for j in range(k):
                p = float(shares[row, column, j])
                if p > 0:
                    total += p * math.log(p / float(overall[j]))
    return total / (h * w)


def window_means(features, side):
    """Means of features (h, w, d) over square windows, moved inside at the border."""
    h, w, d = features.shape
    out = np.zeros((h, w, d))
    for row in range(h):
        for column in range(w):
            top = min(max(row - side // 2, 0), h - side)
            left = min(max(column - side // 2, 0), w - side)
            window = features[top : top + side, left : left + side]
            out[row, column] = window.reshape(-1, d).mean(axis=0)
    return out


def averaged_scales(maps):
    """Log-maps by layer name, those of one layer at several scales averaged."""
    found = {}
    for name, values in maps.items():
        base, _, side = name.partition("@")
        values = np.array(values, np.float64)
        reach = int(side or 1) // 2
        if reach:
            inner = values[reach:-reach, reach:-reach]
            middle = sorted(inner.ravel())[inner.size // 2]
            whole = np.full(values.shape, middle)
            whole[reach:-reach, reach:-reach] = inner
            values = whole
        found.setdefault(base, []).append(values)
    return [sum(values) / len(values) for values in found.values()]
