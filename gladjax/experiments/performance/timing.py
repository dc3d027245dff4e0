"""What the measurements share: real features, clocks, and the dense baseline.

A quotient of two times is only worth something if both were measured in one process,
and a baseline only if it is good: the largest rate of matrix products that this process
reaches is measured beside it, and every record tells which share of it a program has.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import backbone, datasets, features, images
from gladjax.mixture import GaussianMixture


def clock(function: Callable[[], Any], *, rounds: int = 3) -> list[float]:
    """Returns the wall time of each call, in seconds.

    Args:
      function: Called after a first call that is not timed, which compiles.
      rounds: How often.
    """
    jax.block_until_ready(function())
    passed = []
    for _ in range(rounds):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        passed.append(time.perf_counter() - begun)
    return passed


def environment(**more: str) -> dict[str, str]:
    """Returns the environment of a process that is measured: NumPy is left as it is.

    Args:
      **more: Variables to set.
    """
    known = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
    return {**known, **more}


def matrix_peak(*, size: int = 4096, dtype: str = "float32") -> float:
    """Returns the best rate of a product of square matrices in JAX, in Gflop/s.

    Args:
      size: Rows and columns.
      dtype: Of the entries.
    """
    with jax.enable_x64(dtype == "float64"):
        draw = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
        product = jax.jit(jnp.matmul)
        a = jnp.asarray(draw)
        return 2e-9 * size**3 / min(clock(lambda: product(a, a), rounds=5))


def solar_cells(name: str, layer: str, *, limit: int) -> Float[np.ndarray, "n d"]:
    """Returns real features: those of normal solar cells (ELPV).

    Args:
      name: Name of the network.
      layer: One of its layers.
      limit: How many samples, drawn from all positions with a fixed seed.
    """
    network = backbone.load(name)
    paths = [record.image for record in datasets.elpv().train]
    read = (images.read(path) for path in paths)
    stream = features.stream(network, read)
    maps = np.concatenate([part[layer] for part in stream])
    samples = maps.reshape(-1, maps.shape[-1])
    if limit > len(samples):
        raise ValueError(f"there are {len(samples)} samples only, not {limit}")
    chosen = np.random.default_rng(0).choice(len(samples), limit, replace=False)
    return samples[np.sort(chosen)]


def whitening(mixture: GaussianMixture) -> Float[np.ndarray, "k d d"]:
    """Returns a dense root of every inverse covariance.

    Args:
      mixture: On the host.
    """
    k, d = mixture.means.shape
    roots = np.zeros((k, d, d), mixture.means.dtype)
    for c in range(k):
        own = slice(mixture.offsets[c], mixture.offsets[c] + mixture.ranks[c])
        rows = mixture.rows[own]
        if len(rows) == d:
            roots[c] = rows
            continue
        # The symmetric root of the inverse: few directions differ from the noise.
        scale, noise = float(mixture.scales[c]), float(mixture.noise[c])
        spikes, basis = np.linalg.svd(rows, full_matrices=False)[1:]
        share = 1 / np.sqrt(noise) - 1 / np.sqrt(noise + scale * spikes**2)
        roots[c] = np.eye(d) / np.sqrt(noise) - (basis.T * share) @ basis
    return roots


@jax.jit
def dense_argmin(
    roots: Float[Array, "k d d"],
    means: Float[Array, "k d"],
    constants: Float[Array, " k"],
    x: Float[Array, "n d"],
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Assigns samples by one matrix product per component: the baseline.

    Args:
      roots: From `whitening`.
      means: Of the components.
      constants: What is added to the distance.
      x: Samples.

    Returns:
      Labels and costs.
    """

    def visit(
        best: tuple[Array, Array], component: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], None]:
        root, mean, constant, index = component
        y = jnp.matmul(x - mean[None, :], root.T)
        cost = jnp.sum(jnp.square(y), axis=1) + constant
        labels, least = best
        closer = cost < least
        return (jnp.where(closer, index, labels), jnp.minimum(cost, least)), None

    n = x.shape[0]
    start = (jnp.zeros((n,), jnp.int32), jnp.full((n,), jnp.inf, x.dtype))
    index = jnp.arange(len(means), dtype=jnp.int32)
    return jax.lax.scan(visit, start, (roots, means, constants, index))[0]


def two_least(
    mixture: GaussianMixture, x: Float[np.ndarray, "n d"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 2"]]:
    """Returns the float64 argmin over all components, with the two least costs.

    Args:
      mixture: On the host.
      x: Samples, few.
    """
    wide = jax.tree.map(
        lambda leaf: leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf,
        mixture,
    )
    constants = wide.log_dets - 2 * wide.log_weights
    costs = np.empty((len(x), len(wide.means)))
    for c in range(len(wide.means)):
        own = slice(wide.offsets[c], wide.offsets[c] + wide.ranks[c])
        rows = wide.rows[own]
        e = x.astype(np.float64) - wide.means[c]
        t = e @ rows.T
        if len(rows) == x.shape[1]:
            costs[:, c] = np.sum(t * t, axis=1) + constants[c]
            continue
        a, s = wide.scales[c], wide.noise[c]
        v = np.linalg.solve(s * np.eye(len(rows)) + a * rows @ rows.T, t.T).T
        rest = e - a * v @ rows
        costs[:, c] = np.sum(rest * rest, axis=1) / s + constants[c]
        costs[:, c] += a * np.sum(v * v, axis=1)
    return np.argmin(costs, axis=1), np.sort(costs, axis=1)[:, :2]


def room(labels: np.ndarray, num_components: int, dimension: int) -> tuple[int, int]:
    """Returns the sizes of the flat arrays of a mixture fitted to these labels."""
    counts = np.bincount(labels[labels >= 0], minlength=num_components)
    few = np.where(counts < dimension, counts, 0)
    return int(np.minimum(counts, dimension).sum()), max(int(np.sum(few**2)), 1)


def growth_exponent(sizes: list[int], seconds: list[float]) -> float:
    """Returns the slope of log time against log size, by least squares.

    Args:
      sizes: Abscissae.
      seconds: Times.

    Example:
      >>> round(growth_exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
      2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def doubled(largest: int, *, times: int) -> list[int]:
    """Returns sizes that double up to the largest one.

    Args:
      largest: The last one.
      times: How often it is halved.

    Example:
      >>> doubled(1000, times=3)
      [125, 250, 500, 1000]
    """
    return [largest >> i for i in reversed(range(times + 1))]
