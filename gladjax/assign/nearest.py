"""The nearest component of every sample, and a certificate (paper, Eq. 1)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gladjax import devices, programs
from gladjax.assign.bounds import Bounds, Coordinates, coordinates, prepare
from gladjax.assign.search import GROUP, search
from gladjax.mixture import AnyArray, GaussianMixture

PART = 8  # Few samples of many are looked at in chunks of this part of the usual size.


class AssignInfo(NamedTuple):
    """How an assignment came about.

    Attributes:
      margin: For each sample, the least bound (or cost) of any other component minus
        the cost of the winner, or the limit where nothing is within it: never negative,
        which certifies the label.
      survivors: Pairs per sample that the first cost left open, mean.
      evaluated: Full costs per sample, mean.
    """

    margin: Float[Array, " n"]
    survivors: Float[Array, ""]
    evaluated: Float[Array, ""]


def constants(mixture: GaussianMixture) -> Float[Array, " k"]:
    """Returns ``log|Sigma_k| - 2 log pi_k``, infinite for dead components."""
    return jnp.asarray(mixture.log_dets) - 2 * jnp.asarray(mixture.log_weights)


def nearest(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    limit: Float[AnyArray, " n"] | None = None,
    axes: Coordinates | None = None,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Returns the component of least cost of every sample (Eq. 1).

    Runs eagerly on arrays of the host or a device, under ``jit``, ``vmap`` and
    ``shard_map``. Not differentiable in reverse.

    Args:
      mixture: The mixture.
      features: Samples.
      start: A guess for each sample, -1 for none; it changes the time, never the
        answer.
      limit: Costs above which a component is of no interest; none by default.
      axes: The leading `coordinates`, if they are at hand.

    Returns:
      The labels of the dense argmin, the first of equals, and the costs ``D_k(u)``;
      label -1 and the limit itself where every component is above it, and where a
      sample is not finite.

    Raises:
      ValueError: If the shapes do not fit.
    """
    return _nearest(_checked(mixture, features), mixture, start, limit, axes, False)[:2]


def nearest_info(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    limit: Float[AnyArray, " n"] | None = None,
    axes: Coordinates | None = None,
) -> tuple[Int[Array, " n"], Float[Array, " n"], AssignInfo]:
    """Returns what `nearest` returns, with a certificate and counts.

    Args:
      mixture: The mixture.
      features: Samples.
      start: A guess for each sample, -1 for none.
      limit: Costs above which a component is of no interest.
      axes: The leading `coordinates`, if they are at hand.

    Returns:
      Labels, costs, and how they came about.

    Raises:
      ValueError: If the shapes do not fit.
    """
    return _nearest(_checked(mixture, features), mixture, start, limit, axes, True)


def _checked(mixture: GaussianMixture, features: Float[AnyArray, "n d"]) -> Array:
    d = mixture.means.shape[1]
    if features.ndim != 2 or features.shape[1] != d:
        raise ValueError(f"features must be of shape (n, {d}), not {features.shape}")
    return jnp.asarray(features)


prepared = programs.Program(prepare, static=("margin",), alone=True)
"""`gladjax.assign.bounds.prepare`, compiled once for every shape.

A search that is given its bounds factors nothing, so several may run at once.
"""


@partial(programs.Program, static=("certify",), alone=True)
def _nearest(
    features: Array,
    mixture: GaussianMixture,
    start: Array | None,
    limit: Array | None,
    axes: Coordinates | None,
    certify: bool,
) -> tuple[Array, Array, AssignInfo]:
    mixture = jax.tree.map(jnp.asarray, mixture)
    features = features.astype(mixture.means.dtype)
    axes = coordinates(features) if axes is None else axes
    bounds = prepare(mixture, axes)
    return assigned(
        mixture, bounds, features, start=start, limit=limit, certify=certify
    )


def by_images(
    addends: Float[Array, "k h"], num_samples: int
) -> tuple[Float[Array, "k c"], int]:
    """Repeats what holds at the positions of an image for a chunk of whole images.

    Args:
      addends: A column for each position.
      num_samples: Samples in all, of whole images.

    Returns:
      A column for each sample of a chunk, and their number.
    """
    period = addends.shape[1]
    images = max(1, min(devices.sizes().chunk, num_samples) // period)
    return jnp.tile(addends, (1, images)), period * images


def assigned(
    mixture: GaussianMixture,
    bounds: Bounds,
    features: Float[Array, "n d"],
    *,
    start: Int[Array, " n"] | None = None,
    limit: Float[Array, " n"] | None = None,
    addends: Float[Array, "k _h"] | None = None,
    certify: bool = False,
    rows: Int[Array, " n"] | None = None,
) -> tuple[Int[Array, " n"], Float[Array, " n"], AssignInfo]:
    """Assigns samples chunk by chunk: no ``n x k`` array outlives a chunk.

    Args:
      mixture: The mixture.
      bounds: Its bounds.
      features: Samples.
      start: A guess for each sample, -1 for none.
      limit: Costs above which a component is of no interest.
      addends: What a component adds to the distance, a column for each position; the
        samples are whole images of so many positions. By default the `constants`.
      certify: Whether the margins are worked out; they are 0 otherwise.
      rows: Which samples, in the order of everything else; those that are of interest
        first. All by default.

    Returns:
      Labels, as the bounds number the components; costs; and how they came about.
    """
    every = features if rows is None else rows
    n, dtype = every.shape[0], features.dtype
    fixed = constants(mixture)[:, None] if addends is None else addends
    if bounds.ids is not None:
        fixed = fixed.at[bounds.ids].get(mode="fill", fill_value=jnp.inf)
    most = devices.sizes().chunk // (1 if rows is None else PART)
    # Chunks of like size, whole groups.
    chunk = -(-n // max(1, -(-n // most)))
    chunk = -(-chunk // GROUP) * GROUP
    if addends is not None:
        fixed, chunk = by_images(addends, n)
    if n == 0:
        nothing = jnp.zeros((0,), dtype)
        return nothing.astype(jnp.int32), nothing, AssignInfo(nothing, *jnp.zeros(2))

    def visit(
        x: Array, guess: Array | None, given: Array | None
    ) -> tuple[tuple[Array, Array, Array], Array]:
        if given is None:
            return certified(x, guess, given)
        # A chunk of which nothing counts costs nothing.
        return jax.lax.cond(
            jnp.any(given > -jnp.inf), certified, without, x, guess, given
        )

    def without(
        x: Array, guess: Array | None, given: Array
    ) -> tuple[tuple[Array, Array, Array], Array]:
        del guess
        label = jnp.full(x.shape[:1], -1, jnp.int32)
        return (label, given, jnp.zeros_like(given)), jnp.zeros((2,), dtype)

    def certified(
        x: Array, guess: Array | None, given: Array | None
    ) -> tuple[tuple[Array, Array, Array], Array]:
        x = x if rows is None else features[x]
        found = search(mixture, bounds, x, fixed, guess=guess, limit=given)
        label, cost = found.label, found.best
        margin = jnp.zeros_like(cost)
        if certify:
            row = jnp.arange(fixed.shape[0], dtype=jnp.int32)[:, None]
            others = jnp.where(row == label[None, :], jnp.inf, found.exact)
            rest = jnp.minimum(jnp.min(found.low, axis=0), jnp.min(others, axis=0))
            margin = jnp.where(jnp.isfinite(cost), rest - cost, 0)
        seen = jnp.stack([found.survivors, found.evaluated]).astype(dtype)
        return (label, cost, margin), seen

    guess = None if start is None else jnp.asarray(start, jnp.int32)
    bound = None if limit is None else jnp.asarray(limit, dtype)
    found, counts = devices.in_chunks(visit, (every, guess, bound), chunk)
    return found[0], found[1], AssignInfo(found[2], *(counts / n))
