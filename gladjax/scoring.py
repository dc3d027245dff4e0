"""From features to a log-probability map, a score and a heat map (paper, Section 3.3).

Per layer, at every position,

    log p_l(x) = logsumexp_k [log pi_k(x) + log N(u(x); mu_k, Sigma_k)]

over the components active at ``x``. The layers are taken as independent: their maps are
brought to the finest grid and added. The score of an image is minus the 0.5 % quantile
of the sum inside the mask.

A logarithm of a sum needs only the terms near the largest one: components more than
`RANGE` above the least cost (20 nats, in float64 40) are left out, with an error below
``k e^-20``. The bounds of `gladjax.assign` find those that remain; on a CPU this runs
in compiled kernels, inside a trace or on an accelerator every component is computed.

Notation: ``h w`` the map, ``d`` features, ``k`` components, ``q`` the quantile.

Differs from the reference in
  1. The grid of the sum, which the paper does not name: the finest (R5).

Reference: Artola et al., "GLAD", WACV 2023, Section 3.3.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from gladjax import assign
from gladjax.covariance import PRECISION
from gladjax.kernels import mixing
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.weights import LocalWeights

# Costs (twice the nats) above the least one at which a component is left out.
RANGE = {np.dtype(np.float32): 40.0, np.dtype(np.float64): 80.0}
NARROW = 160  # Up to this many features full costs are computed position by position.


def marginals(mixture: GaussianMixture, *, rank: int = 32) -> assign.Bounds:
    """Prepares a mixture for repeated scoring.

    Args:
      mixture: The mixture.
      rank: Leading coordinates.

    Returns:
      Its bounds, in the principal axes of its means.
    """
    mixture = jax.tree.map(np.asarray, mixture)
    return assign.bounds(mixture, assign.principal_axes(mixture.means), rank=rank)


def log_prob_map(
    mixture: GaussianMixture,
    local_weights: LocalWeights,
    features: Float[AnyArray, "h w d"],
    *,
    prepared: assign.Bounds | None = None,
) -> Float[AnyArray, "h w"]:
    """Returns the log-probability of every position.

    Args:
      mixture: The mixture of the layer.
      local_weights: Its local weights, of the same map size.
      features: Feature map of one image.
      prepared: The mixture's `marginals`, if they are at hand.

    Returns:
      ``log p(x)`` in nats, a NumPy array on the host and a JAX array in a trace.

    Raises:
      ValueError: If the map size or the number of features does not fit.
    """
    if features.ndim != 3 or features.shape[:2] != local_weights.shape:
        raise ValueError(
            f"features {features.shape} are not on the map of the weights "
            f"{local_weights.shape}"
        )
    if features.shape[2] != mixture.means.shape[1]:
        raise ValueError(
            f"{features.shape[2]} features, but the mixture has "
            f"{mixture.means.shape[1]}"
        )
    leaves = jax.tree.leaves((mixture, local_weights, features))
    traced = any(isinstance(leaf, Tracer) for leaf in leaves)
    if traced or jax.default_backend() != "cpu":
        return _dense_map(mixture, local_weights, jnp.asarray(features))
    mixture, local_weights = jax.tree.map(np.asarray, (mixture, local_weights))
    prepared = marginals(mixture) if prepared is None else prepared
    return _sparse_map(mixture, local_weights, np.asarray(features), prepared)


def _sparse_map(
    mixture: GaussianMixture,
    local: LocalWeights,
    features: np.ndarray,
    prepared: assign.Bounds,
) -> np.ndarray:
    h, w, d = features.shape
    samples = features.reshape(h * w, d).astype(mixture.means.dtype, copy=False)
    place = np.arange(h * w, dtype=np.int32)
    y = assign.project(prepared, samples)
    if d <= NARROW:
        addends = mixture.log_dets[local.components] - 2 * local.log_weights
        logs = mixing.log_sum(
            samples,
            y,
            local.starts,
            local.components,
            addends,
            prepared.means,
            prepared.rows,
            mixture.means,
            mixture.rows,
            mixture.variances,
            mixture.offsets,
            mixture.ranks,
            mixture.noise,
            RANGE[y.dtype],
            assign.RAISE[y.dtype],
            32,
        )
        out = logs - 0.5 * d * math.log(2 * math.pi)
        return out.reshape(h, w).astype(mixture.means.dtype)
    active = (local.starts, local.components, local.log_weights)
    _, first = assign.local_candidates(prepared, mixture, y, place, active, None)

    def cost(owner: np.ndarray, entry: np.ndarray) -> np.ndarray:
        component = local.components[entry]
        distance = assign.pair_costs(
            mixture, samples, owner, component, constants=mixture.log_dets
        )
        return distance - 2 * local.log_weights[entry]

    least = cost(place, first)
    owner, entry = assign.local_candidates(
        prepared,
        mixture,
        y,
        place,
        active,
        least + np.asarray(RANGE[least.dtype], least.dtype),
        skip=local.components[first],
    )
    owner = np.concatenate([place, owner])
    values = np.concatenate([least, cost(owner[h * w :], entry)])
    lowest = least.copy()
    np.minimum.at(lowest, owner, values)
    terms = np.exp(-0.5 * (values - lowest[owner]).astype(np.float64))
    total = np.bincount(owner, terms, minlength=h * w)
    out = np.log(total) - 0.5 * (lowest + d * math.log(2 * math.pi))
    return out.reshape(h, w).astype(mixture.means.dtype)


def _dense_map(
    mixture: GaussianMixture, local: LocalWeights, features: Array
) -> Float[Array, "h w"]:
    h, w, d = features.shape
    k = mixture.means.shape[0]
    starts = jnp.asarray(local.starts)
    entry = jnp.arange(local.components.shape[0], dtype=starts.dtype)
    at = jnp.searchsorted(starts, entry, side="right") - 1
    log_weights = jnp.full((h * w, k), -jnp.inf, features.dtype)
    log_weights = log_weights.at[at, local.components].set(
        jnp.asarray(local.log_weights), mode="drop"
    )
    distance = assign.distances(mixture, features.reshape(h * w, d))
    fixed = jnp.asarray(mixture.log_dets)[None, :] + d * math.log(2 * math.pi)
    log_density = -0.5 * (distance + fixed)
    return jax.nn.logsumexp(log_weights + log_density, axis=1).reshape(h, w)


def aggregate(log_maps: Sequence[Float[AnyArray, "_h _w"]]) -> Float[Array, "h w"]:
    """Multiplies the layers' probabilities: adds their log-maps on the finest grid.

    Args:
      log_maps: One map per layer, of any sizes.

    Returns:
      The sum, on the grid with the most positions; coarser maps are interpolated
      bilinearly with half-pixel centres.

    Raises:
      ValueError: If there is no map.
    """
    if not log_maps:
        raise ValueError("there must be at least one log-map")
    shape = max((m.shape for m in log_maps), key=lambda s: s[0] * s[1])
    maps = [upsample(m, shape) for m in log_maps]
    return sum(maps[1:], start=maps[0])


def upsample(
    values: Float[AnyArray, "_h _w"], shape: tuple[int, int]
) -> Float[Array, "h w"]:
    """Interpolates a map bilinearly, with half-pixel centres.

    Args:
      values: The map.
      shape: Height and width wanted.

    Returns:
      The map on the new grid; the border is continued.
    """
    values = jnp.asarray(values)
    if values.shape == tuple(shape):
        return values
    rows = jnp.asarray(_interpolation(values.shape[0], shape[0], values.dtype))
    columns = jnp.asarray(_interpolation(values.shape[1], shape[1], values.dtype))
    values = jnp.matmul(rows, values, precision=PRECISION)
    return jnp.matmul(values, columns.T, precision=PRECISION)


@functools.lru_cache(maxsize=64)
def _interpolation(size: int, new: int, dtype: np.dtype) -> Float[np.ndarray, "n s"]:
    """Returns the matrix of bilinear interpolation along one axis."""
    at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    low = np.minimum(at.astype(int), max(size - 2, 0))
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((new, size))
    np.add.at(matrix, (np.arange(new), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(new), high), at - low)
    return matrix.astype(dtype)


@functools.lru_cache(maxsize=64)
def _gaussian(size: int, sigma: float, dtype: np.dtype) -> Float[np.ndarray, "s s"]:
    """Returns the matrix of a Gaussian smoothing along one mirrored axis."""
    reach = int(4 * sigma + 0.5)
    step = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (step / sigma) ** 2)
    at = (np.arange(size)[:, None] + step[None, :]) % (2 * size)
    at = np.where(at < size, at, 2 * size - 1 - at)
    matrix = np.zeros((size, size))
    rows = np.broadcast_to(np.arange(size)[:, None], at.shape)
    np.add.at(matrix, (rows, at), weights / weights.sum())
    return matrix.astype(dtype)


def image_score(
    log_map: Float[AnyArray, "h w"], mask: Bool[AnyArray, "h w"], *, q: float = 0.005
) -> Float[Array, ""]:
    """Returns how anomalous an image is: minus a low quantile of its log-map.

    Args:
      log_map: Sum of the layers' log-probabilities.
      mask: Cells that count.
      q: The quantile, in [0, 1]; 0 is the minimum.

    Returns:
      Minus the ``q`` quantile inside the mask, interpolated linearly between order
      statistics; higher is more anomalous. NaN where the mask is empty.

    Raises:
      ValueError: If ``q`` is outside [0, 1] or the shapes differ.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must be between 0 and 1, not {q}")
    if log_map.shape != mask.shape:
        raise ValueError(f"the mask {mask.shape} is not on the map {log_map.shape}")
    log_map, mask = jnp.asarray(log_map), jnp.asarray(mask)
    values = jnp.sort(jnp.where(mask, log_map, jnp.inf).ravel())
    count = jnp.sum(mask)
    at = q * jnp.maximum(count - 1, 0).astype(values.dtype)
    low = jnp.floor(at).astype(jnp.int32)
    part = at - low.astype(values.dtype)
    first = values[low]
    second = values[jnp.minimum(low + 1, jnp.maximum(count - 1, 0).astype(jnp.int32))]
    # Written so that a minus infinity does not meet a factor 0.
    between = jnp.where(part > 0, first * (1 - part) + second * part, first)
    return jnp.where(count > 0, -between, jnp.nan)


def heat_map(
    log_map: Float[AnyArray, "h w"],
    mask: Bool[AnyArray, "h w"],
    shape: tuple[int, int],
    *,
    sigma: float = 4.0,
) -> Float[Array, "_h _w"]:
    """Returns minus the log-map at image size, smoothed.

    Args:
      log_map: Sum of the layers' log-probabilities.
      mask: Cells that count; the others get the least anomalous value inside.
      shape: Height and width of the image.
      sigma: Standard deviation of the Gaussian, in pixels.

    Returns:
      The heat map; higher is more anomalous.
    """
    log_map, mask = jnp.asarray(log_map), jnp.asarray(mask)
    calm = jnp.max(jnp.where(mask, log_map, -jnp.inf))
    calm = jnp.where(jnp.any(mask), calm, 0)
    heat = upsample(-jnp.where(mask, log_map, calm), shape)
    return smooth(heat, sigma=sigma)


def smooth(values: Float[Array, "h w"], *, sigma: float) -> Float[Array, "h w"]:
    """Smooths a map by a Gaussian cut at four standard deviations.

    Args:
      values: The map, mirrored at its border.
      sigma: Standard deviation in cells; 0 leaves the map as it is.

    Returns:
      The smoothed map.
    """
    if sigma <= 0:
        return values
    rows = jnp.asarray(_gaussian(values.shape[0], sigma, values.dtype))
    columns = jnp.asarray(_gaussian(values.shape[1], sigma, values.dtype))
    values = jnp.matmul(rows, values, precision=PRECISION)
    return jnp.matmul(values, columns.T, precision=PRECISION)
