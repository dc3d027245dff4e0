"""The log-probability of every position of a map."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from gladjax import assign, devices, programs, samples
from gladjax.assign import Bounds
from gladjax.mixture import AnyArray, GaussianMixture, room
from gladjax.weights import LocalWeights

# Costs (twice the nats) above the least one at which a component is left out.
RANGE = {jnp.dtype("float32"): 40.0, jnp.dtype("float64"): 80.0}


class Prepared(NamedTuple):
    """A layer made ready for scoring.

    Attributes:
      bounds: Bounds of the distances, in the principal axes of the means; where they
        take all coordinates, without a margin: the distances themselves.
      addends: What each component adds to the distance at each position,
        ``log|Sigma_k| - 2 log pi_k(x)``, infinite where it is not active.
    """

    bounds: Bounds
    addends: Float[Array, "k p"]


def prepare(mixture: GaussianMixture, local_weights: LocalWeights) -> Prepared:
    """Prepares a layer for repeated scoring.

    Args:
      mixture: The mixture.
      local_weights: Its local weights.

    Returns:
      Bounds and addends.
    """
    return Prepared(bounds(mixture), addends(mixture, local_weights))


def addends(
    mixture: GaussianMixture, local_weights: LocalWeights
) -> Float[Array, "k p"]:
    """Returns what each component adds to the distance at each position.

    Args:
      mixture: The mixture.
      local_weights: Its local weights, of the whole map or a part (`weights.cut`).

    Returns:
      ``log|Sigma_k| - 2 log pi_k(x)``, as `Prepared` has it.
    """
    starts = jnp.asarray(local_weights.starts)
    component, log_weights = local_weights.components, local_weights.log_weights
    if not isinstance(component, Tracer):
        # Layers of about as many weights share a program; what is added, is dropped.
        count = len(component)
        more = (0, room(count) - count)
        component, log_weights = (np.pad(a, more) for a in (component, log_weights))
    component = jnp.asarray(component).astype(jnp.int32)
    log_weights = jnp.asarray(log_weights)
    size = (len(mixture.means), local_weights.shape[0] * local_weights.shape[1])
    log_dets = jnp.asarray(mixture.log_dets)
    return _added_where(starts, component, log_weights, log_dets, size)


@partial(programs.Program, static=("size",))
def _added_where(
    starts: Array,
    component: Array,
    log_weights: Array,
    log_dets: Array,
    size: tuple[int, int],
) -> Float[Array, "k p"]:
    entry = jnp.arange(component.shape[0], dtype=starts.dtype)
    owner = jnp.searchsorted(starts, entry, side="right") - 1
    empty = jnp.full(size, -jnp.inf, log_weights.dtype)
    dense = empty.at[component, owner].set(log_weights, mode="drop")
    return _added(log_dets, dense)


def bounds(mixture: GaussianMixture) -> Bounds:
    """Returns the bounds for scoring, in coordinates in which the means are spread."""
    ranks = devices.ranks(mixture.means.shape[1], image=True)
    axes = samples.axes(jnp.asarray(mixture.means), ranks=ranks)
    whole = ranks[0] == mixture.means.shape[1]
    return assign.prepared(mixture, axes, margin=not whole)


def added(
    mixture: GaussianMixture, log_weights: Float[Array, "k p"]
) -> Float[Array, "k p"]:
    """Returns what each component adds, from weights of all components.

    Args:
      mixture: The mixture.
      log_weights: Logarithms of the weights at every position.

    Returns:
      ``log|Sigma_k| - 2 log pi_k(x)``, as `Prepared` has it.
    """
    return _added(jnp.asarray(mixture.log_dets), log_weights)


@programs.Program
def _added(log_dets: Array, log_weights: Array) -> Array:
    return log_dets[:, None] - 2 * log_weights.astype(log_dets.dtype)


def log_prob_map(
    mixture: GaussianMixture,
    local_weights: LocalWeights,
    features: Float[AnyArray, "h w d"],
    *,
    prepared: Prepared | None = None,
) -> Float[Array, "h w"]:
    """Returns the log-probability of every position (Section 3.3).

    Runs eagerly, under ``jit`` and ``vmap``; differentiable with respect to the
    features.

    Args:
      mixture: The mixture of the layer.
      local_weights: Its local weights, of the same map size.
      features: Feature map of one image.
      prepared: What `prepare` makes of these two, if it is at hand.

    Returns:
      ``log p(x)`` in nats; NaN where a feature is not finite.

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
    if prepared is None:
        prepared = prepare(mixture, local_weights)
    return log_prob_maps(mixture, prepared, jnp.asarray(features)[None])[0]


@programs.Program
def log_prob_maps(
    mixture: GaussianMixture, prepared: Prepared, features: Float[AnyArray, "m h w d"]
) -> Float[Array, "m h w"]:
    """Returns the log-probability of every position of several images.

    Args:
      mixture: The mixture of the layer.
      prepared: From `prepare`.
      features: Feature maps.

    Returns:
      ``log p(x)`` in nats, image by image.
    """
    mixture = jax.tree.map(jnp.asarray, mixture)
    m, h, w, d = features.shape
    samples = jnp.asarray(features).astype(mixture.means.dtype).reshape(-1, d)
    fixed, chunk = prepared.addends, h * w
    # On a CPU images go together where they share a pass over the components' rows.
    exact = prepared.bounds.coordinates.basis.shape[1] == d
    if devices.sizes().together or not exact:
        fixed, chunk = assign.by_images(fixed, samples.shape[0])

    def visit(own: Array) -> tuple[Array, tuple[()]]:
        return log_densities(mixture, prepared.bounds, fixed, own), ()

    return devices.in_chunks(visit, (samples,), chunk)[0].reshape(m, h, w)


@jax.custom_jvp
def log_densities(
    mixture: GaussianMixture,
    bounds: Bounds,
    addends: Float[Array, "k c"],
    samples: Float[Array, "c d"],
) -> Float[Array, " c"]:
    """Returns the log-density of samples under weights of their own.

    Args:
      mixture: The mixture.
      bounds: Its bounds.
      addends: What each component adds to the distance, for each sample.
      samples: The samples.

    Returns:
      ``logsumexp_k [log pi_k + log N(u; mu_k, Sigma_k)]``.
    """
    d = samples.shape[1]
    return log_sums(costs(mixture, bounds, addends, samples)) - _constant(d)


def _constant(d: int) -> float:
    return 0.5 * d * math.log(2 * math.pi)


def costs(
    mixture: GaussianMixture,
    bounds: Bounds,
    addends: Float[Array, "k c"],
    samples: Float[Array, "c d"],
) -> Float[Array, "k c"]:
    """Returns the costs within reach of the least, and perhaps others.

    Args:
      mixture: The mixture.
      bounds: Its bounds.
      addends: What each component adds to the distance, for each sample.
      samples: The samples.

    Returns:
      Costs, infinite where not computed.
    """
    reach = RANGE[samples.dtype]
    return assign.search(mixture, bounds, samples, addends, reach=reach).exact


def log_sums(values: Float[Array, "k c"]) -> Float[Array, " c"]:
    """Returns ``log sum_k exp(-cost / 2)`` of each column."""
    best = jnp.min(values, axis=0)
    safe = jnp.where(jnp.isfinite(best), best, jnp.zeros_like(best))
    total = jnp.sum(jnp.exp(0.5 * (safe[None, :] - values)), axis=0)
    return jnp.log(total) - 0.5 * safe


@partial(log_densities.defjvp, symbolic_zeros=True)
def _log_densities_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The derivative with respect to the samples, the only one there is."""
    mixture, bounds, addends, samples = primals
    zero = jax.custom_derivatives.SymbolicZero
    if not all(type(t) is zero for t in jax.tree.leaves(tangents[:3])):
        raise ValueError("log-densities are differentiable in the features only")
    values = costs(mixture, bounds, addends, samples)
    shares = jax.nn.softmax(-0.5 * values, axis=0)
    slopes = assign.slopes(mixture, samples, shares)
    rate = jnp.sum(slopes * tangents[3], axis=1)
    return log_sums(values) - _constant(samples.shape[1]), rate
