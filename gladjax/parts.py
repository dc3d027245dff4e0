"""Components fitted one by one on the host, and joined into a mixture.

K-MLE, EM and online K-MLE fit components that do not depend on each other: `in_threads`
fits them side by side, `few` and `many` are the compiled forms of `gladjax.covariance`
for components of at most and of more than ``d`` samples, `assemble` lays their rows one
after another into the flat array of a `GaussianMixture`.

Notation: ``k`` components, ``d`` features, ``c`` the size of a block of samples.

Differs from the reference in: there is none.

Reference: there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
from jaxtyping import Array, Float, Int

from gladjax import covariance
from gladjax.covariance import Factor, Shrinkage
from gladjax.mixture import AnyArray, GaussianMixture

Part = tuple[np.ndarray, ...]  # Mean, rows, variances, noise, log-determinant.


@partial(jax.jit, static_argnames="shrinkage")
def few(
    samples: Float[Array, "c d"],
    size: Int[Array, ""],
    floor: Float[Array, ""],
    shrinkage: Shrinkage,
    weights: Float[Array, " c"] | None = None,
) -> tuple[Float[Array, " d"], Factor]:
    """Fits a component to at most ``d`` samples; compiled once for each block size.

    Args:
      samples: The samples, filled up to the block.
      size: How many of them count.
      floor: Variance that stands in for 0.
      shrinkage: Shrinkage intensity.
      weights: Weights of the samples; 1 by default.

    Returns:
      Mean and covariance.
    """
    mask = jnp.arange(samples.shape[0], dtype=jnp.int32) < size
    return covariance.spiked(samples, mask, floor, weights=weights, shrinkage=shrinkage)


@partial(jax.jit, static_argnames="shrinkage")
def many(
    scatter: Float[Array, "d d"],
    count: Float[Array, ""] | Int[Array, ""],
    floor: Float[Array, ""],
    shrinkage: Shrinkage,
) -> Factor:
    """Returns the covariance of a component of more than ``d`` samples.

    Args:
      scatter: Sum of the outer products of the centred samples.
      count: Number of the samples, or the sum of their weights.
      floor: Variance that stands in for 0.
      shrinkage: Shrinkage intensity.
    """
    return covariance.whitened(scatter, count, floor, shrinkage=shrinkage)


def assemble(
    living: Mapping[int, Part], counts: np.ndarray, dimension: int, dtype: np.dtype
) -> GaussianMixture:
    """Joins components into one mixture of NumPy arrays.

    Args:
      living: Mean, rows, variances, noise and log-determinant of the living components.
      counts: Number of samples of each component, 0 for the others, ``(k,)``.
      dimension: Number of features ``d``.
      dtype: Type of the mixture.

    Returns:
      The mixture; components without a part have weight 0.
    """
    k, d = len(counts), dimension
    ranks = np.array(
        [len(living[c][1]) if c in living else 0 for c in range(k)], np.int32
    )
    offsets = (np.cumsum(ranks) - ranks).astype(np.int32)
    means, noise, log_dets = np.zeros((k, d), dtype), np.ones(k), np.zeros(k)
    for c, part in living.items():
        means[c], noise[c], log_dets[c] = part[0], part[3], part[4]
    with np.errstate(divide="ignore"):
        log_weights = np.log(counts / max(counts.sum(), np.finfo(dtype).tiny))
    every = [living[c] for c in sorted(living)]
    return GaussianMixture(
        log_weights=log_weights.astype(dtype),
        means=means,
        rows=_stack([part[1] for part in every], (0, d), dtype),
        variances=_stack([part[2] for part in every], (0,), dtype),
        offsets=offsets,
        ranks=ranks,
        noise=noise.astype(dtype),
        log_dets=log_dets.astype(dtype),
    )


def part(mean: AnyArray, factor: Factor) -> Part:
    """Returns a component on the host, without the unused rows of its factor."""
    rank = int(factor.rank)
    return (
        np.asarray(mean),
        np.asarray(factor.rows)[:rank].copy(),
        np.asarray(factor.variances)[:rank].copy(),
        np.asarray(factor.noise),
        np.asarray(factor.log_det),
    )


def in_threads(
    function: Callable[[int], Part], components: Sequence[int]
) -> dict[int, Part]:
    """Fits components side by side.

    Args:
      function: Fits one component; what it needs of JAX it compiles once.
      components: The components, the longest work first.

    Returns:
      What was fitted, by component.
    """
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def fit(component: int) -> Part:
        with jax.enable_x64(x64):  # It is a setting of this thread, not the pool's.
            return function(component)

    with threadpoolctl.threadpool_limits(1, "blas"), ThreadPoolExecutor() as pool:
        fitted = list(pool.map(fit, components))
    return dict(zip(components, fitted, strict=True))


def _stack(
    arrays: Sequence[np.ndarray], empty: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    return np.concatenate([np.zeros(empty, dtype), *arrays])
