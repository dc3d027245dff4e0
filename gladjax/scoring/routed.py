"""The map in JAX: for accelerators, and inside of a trace.

Which components are active where is known after training, so the pairs of a position
and an active component, grouped by component in blocks, are a constant of the layer.
Every image runs the same two matrix products per block and one segmented log-sum-exp;
nothing is left out, nothing that is not active is computed.

Notation: ``h w`` the map, ``d`` features, ``e`` pairs (entries of the active list).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import assign, routing
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.routing import Blocks
from gladjax.weights import LocalWeights

SLOTS = 32  # Pairs in a block.


def pair_blocks(local_weights: LocalWeights, num_components: int) -> Blocks:
    """Groups the active pairs by component, once for all images (on the host).

    Args:
      local_weights: The local weights.
      num_components: Components of the mixture.

    Returns:
      As many blocks as are in use, on the device.
    """
    order, starts = routing.group(np.asarray(local_weights.components), num_components)
    work = routing.tasks(starts, size=SLOTS)
    at = work[:, 1:2] + np.arange(SLOTS)
    filled = at < work[:, 2:]
    slots = np.zeros(at.shape, np.int32)
    slots[filled] = order[at[filled]]
    return Blocks(
        slots=jnp.asarray(slots),
        filled=jnp.asarray(filled),
        group=jnp.asarray(work[:, 0].astype(np.int32)),
        counts=jnp.asarray(np.diff(starts).astype(np.int32)),
    )


def owners(local_weights: LocalWeights) -> Int[Array, " e"]:
    """Returns the position of each entry of the active list."""
    starts = jnp.asarray(local_weights.starts)
    entry = jnp.arange(local_weights.components.shape[0], dtype=starts.dtype)
    at = jnp.searchsorted(starts, entry, side="right") - 1
    return at.astype(jnp.int32)


def routed_map(
    mixture: GaussianMixture,
    local_weights: LocalWeights,
    features: Float[AnyArray, "h w d"],
    *,
    blocks: Blocks | None = None,
) -> Float[Array, "h w"]:
    """Returns the log-probability of every position; differentiable.

    Args:
      mixture: The mixture of the layer.
      local_weights: Its local weights, of the same map size.
      features: Feature map of one image.
      blocks: The layer's `pair_blocks`, if they are at hand.

    Returns:
      ``log p(x)`` in nats.
    """
    h, w, d = features.shape
    component = jnp.asarray(local_weights.components).astype(jnp.int32)
    if blocks is None:
        blocks = routing.blocks(component, mixture.means.shape[0], size=SLOTS)
    owner = owners(local_weights)
    samples = jnp.asarray(features).reshape(h * w, d).astype(mixture.means.dtype)
    distance = assign.distances_of_pairs(
        mixture, samples, owner, component, routed=blocks
    )
    fixed = jnp.asarray(mixture.log_dets)[component] + d * math.log(2 * math.pi)
    terms = jnp.asarray(local_weights.log_weights) - 0.5 * (distance + fixed)
    segment = {"segment_ids": owner, "num_segments": h * w, "indices_are_sorted": True}
    most = jax.ops.segment_max(terms, **segment)
    most = jax.lax.stop_gradient(jnp.where(jnp.isfinite(most), most, 0))
    total = jax.ops.segment_sum(jnp.exp(terms - most[owner]), **segment)
    return (jnp.log(total) + most).reshape(h, w)
