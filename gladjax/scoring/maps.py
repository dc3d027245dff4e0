"""The log-probability of every position of a map."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gladjax import assign
from gladjax.kernels import mixing, stage
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.scoring.prepared import Prepared, prepare
from gladjax.scoring.routed import pair_blocks, routed_map
from gladjax.weights import LocalWeights

# Costs (twice the nats) above the least one at which a component is left out.
RANGE = {np.dtype(np.float32): 40.0, np.dtype(np.float64): 80.0}
NARROW = 160  # Up to this many features full costs are computed position by position.
_routed_map = jax.jit(routed_map)
STAGE = 24  # Leading coordinates that every active component is looked at in.


def log_prob_map(
    mixture: GaussianMixture,
    local_weights: LocalWeights,
    features: Float[AnyArray, "h w d"],
    *,
    prepared: Prepared | None = None,
    backend: str = "auto",
) -> Float[AnyArray, "h w"]:
    """Returns the log-probability of every position.

    Args:
      mixture: The mixture of the layer.
      local_weights: Its local weights, of the same map size.
      features: Feature map of one image.
      prepared: What `prepare` makes of these two, if it is at hand.
      backend: ``"numba"``, ``"jax"``, or ``"auto"``: Numba outside of a trace and on a
        CPU, JAX inside of a trace and on accelerators.

    Returns:
      ``log p(x)`` in nats, a NumPy array from Numba and a JAX array from JAX.

    Raises:
      ValueError: If the map size or the number of features does not fit, the backend
        is none of these, or Numba is asked for in a trace.
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
    arrays = (mixture, local_weights, features)
    if assign.uses_jax(backend, arrays):
        blocks = None if prepared is None else prepared.blocks
        inside = assign.traced(arrays)
        if blocks is None and not inside:
            blocks = pair_blocks(local_weights, mixture.means.shape[0])
        program = routed_map if inside else _routed_map
        return program(mixture, local_weights, jnp.asarray(features), blocks=blocks)
    mixture, local_weights = jax.tree.map(np.asarray, (mixture, local_weights))
    prepared = prepare(mixture, local_weights) if prepared is None else prepared
    return _sparse_map(mixture, local_weights, np.asarray(features), prepared)


def _sparse_map(
    mixture: GaussianMixture,
    local: LocalWeights,
    features: np.ndarray,
    prepared: Prepared,
) -> np.ndarray:
    h, w, d = features.shape
    samples = features.reshape(h * w, d).astype(mixture.means.dtype, copy=False)
    bounds = prepared.bounds
    y = stage.project(samples, bounds.centre, bounds.basis, 32)
    exact = y.shape[1] == d  # Then the bound is the cost but for its slack.
    rank = d if exact else min(STAGE, y.shape[1])
    low = stage.first_rows(
        np.ascontiguousarray(y.T),
        prepared.entries,
        prepared.places,
        prepared.tasks,
        bounds.means,
        bounds.rows,
        prepared.addends,
        rank,
        y.dtype.type(1 / (1 - assign.SLACK[y.dtype]) if exact else 1),
    )
    if exact:
        logs = mixing.log_sum_of_costs(local.starts, low, RANGE[y.dtype], 32)
    elif d <= NARROW:
        logs = mixing.log_sum(
            samples,
            y,
            local.starts,
            local.components,
            prepared.addends,
            low,
            rank,
            bounds.means,
            bounds.rows,
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
    else:
        logs = _grouped(mixture, local, samples, y, low, rank, prepared)
    out = logs - 0.5 * d * math.log(2 * math.pi)
    return out.reshape(h, w).astype(mixture.means.dtype)


def _grouped(
    mixture: GaussianMixture,
    local: LocalWeights,
    samples: np.ndarray,
    y: np.ndarray,
    low: np.ndarray,
    rank: int,
    prepared: Prepared,
) -> np.ndarray:
    """Computes full costs component by component: wide rows are read but once."""
    n, dtype = len(samples), y.dtype
    first = mixing.least(local.starts, low, 32)

    def cost(owner: np.ndarray, entry: np.ndarray) -> np.ndarray:
        component = local.components[entry]
        distance = assign.pair_costs(
            mixture, samples, owner, component, constants=mixture.log_dets
        )
        return distance - 2 * local.log_weights[entry]

    everywhere = np.arange(n, dtype=np.int32)
    likely = cost(everywhere, first)
    slack = assign.RAISE[dtype] + 10 * np.finfo(dtype).eps * np.abs(likely)
    kept = mixing.survivors(
        y,
        local.starts,
        local.components,
        prepared.addends,
        low,
        rank,
        prepared.bounds.means,
        prepared.bounds.rows,
        likely + slack.astype(dtype) + dtype.type(RANGE[dtype]),
        first,
        32,
    )
    entry = np.flatnonzero(kept)
    owner = np.concatenate([everywhere, prepared.owners[entry]])
    values = np.concatenate([likely, cost(owner[n:], entry)])
    least = likely.copy()
    np.minimum.at(least, owner, values)
    terms = np.exp(-0.5 * (values - least[owner]).astype(np.float64))
    return np.log(np.bincount(owner, terms, minlength=n)) - 0.5 * least
