"""The programs that all devices run together: both steps of K-MLE as rings."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from gladjax import estimation, seeding
from gladjax.covariance import Shrinkage
from gladjax.mixture import GaussianMixture
from gladjax.sharding.placing import axis_of

Nearest = Callable[..., tuple[Array, Array]]
T = TypeVar("T")
_Carried = tuple[Array, Array, GaussianMixture]


class Programs:
    """The programs of a fit, compiled once per shape, each run by all devices.

    Args:
      mesh: Devices along one axis.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      nearest: The assignment of samples to the components of one device.
    """

    def __init__(
        self, mesh: Mesh, min_count: int, shrinkage: Shrinkage, nearest: Nearest
    ) -> None:
        """Traces nothing yet."""
        self.mesh, self.axis = mesh, axis_of(mesh)
        many, one = PartitionSpec(self.axis), PartitionSpec()
        axis = self.axis

        def spread(body: Callable, inputs: tuple, outputs: object) -> Callable:
            return jax.jit(
                jax.shard_map(
                    body,
                    mesh=mesh,
                    in_specs=inputs,
                    out_specs=outputs,
                    check_vma=False,
                )
            )

        def floor(features: Array, valid: Array) -> Array:
            return estimation.floor_of(features, valid, axis_name=axis)

        def euclidean(features: Array, valid: Array, centres: Array) -> Array:
            return jnp.where(valid, seeding.euclidean(features, centres), -1)

        self.floor = spread(floor, (many, many), one)
        self.take = spread(functools.partial(_take, axis=axis), (many, one), one)
        self.euclidean = spread(euclidean, (many, many, one), many)
        self.search = spread(
            functools.partial(_search, axis=axis, nearest=nearest),
            (many, many, many, one),
            (many, many),
        )
        self.min_count = min_count
        self._spread, self._inputs = spread, (many, many, one, one, one)
        self._options = {"min_count": min_count, "shrinkage": shrinkage}
        self._estimates: dict[tuple[int, int], Callable] = {}

    def estimate(self, room: int, entries: int) -> Callable:
        """Returns the M-step for devices with room for so many samples.

        Args:
          room: Samples that a device keeps for its own components.
          entries: Size of the flat array of their inverses.

        Returns:
          The program: from samples, labels, the place of each component, the places
          and the floor to a mixture that is spread over the devices.
        """
        key = (room, entries)
        if key not in self._estimates:
            body = functools.partial(
                _estimate, axis=self.axis, room=key, options=self._options
            )
            outputs = PartitionSpec(self.axis)
            self._estimates[key] = self._spread(body, self._inputs, outputs)
        return self._estimates[key]


def _take(features: Array, index: Array, *, axis: str) -> Array:
    """Returns some samples to all devices."""
    local = index - jax.lax.axis_index(axis) * features.shape[0]
    inside = (local >= 0) & (local < features.shape[0])
    own = features.at[jnp.where(inside, local, 0)].get(mode="clip")
    return jax.lax.psum(jnp.where(inside[:, None], own, 0), axis)


def _ring(axis: str, tree: T) -> T:
    """Hands everything to the next device, and takes it from the one before."""
    size = jax.lax.axis_size(axis)
    pairs = [(i, (i + 1) % size) for i in range(size)]
    return jax.tree.map(lambda a: jax.lax.ppermute(a, axis, pairs), tree)


def _estimate(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    place: Int[Array, " k"],
    counts: Int[Array, " k"],
    floor: Float[Array, ""],
    *,
    axis: str,
    room: tuple[int, int],
    options: dict[str, Any],
) -> GaussianMixture:
    """Fits the components of this device: the samples of all go round (M-step)."""
    size, me = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    k, d = place.shape[0], features.shape[1]
    kept_room, entries = room
    own = -(-k // size)
    target = jnp.where(labels >= 0, place[labels], size * own)
    sent = jnp.zeros((size + 1,), jnp.int32).at[target // own].add(1)
    matrix = jax.lax.all_gather(sent[:size], axis)
    # Samples of the devices before a device come before its own: the order is kept.
    starts = (jnp.cumsum(matrix, axis=0) - matrix)[:, me]

    def keep(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        kept, names, passing, where = carry
        source = (me - i) % size
        mine = where // own == me
        slot = starts[source] + jnp.cumsum(mine, dtype=jnp.int32) - 1
        slot = jnp.where(mine, slot, kept_room)
        kept = kept.at[slot].set(passing, mode="drop")
        names = names.at[slot].set(where - me * own, mode="drop")
        return kept, names, *_ring(axis, (passing, where))

    kept = jnp.zeros((kept_room, d), features.dtype)
    names = jnp.full((kept_room,), -1, jnp.int32)
    carry = (kept, names, features, target.astype(jnp.int32))
    kept, names, _, _ = jax.lax.fori_loop(0, size, keep, carry)
    size_of = (min(kept_room, own * d), entries)
    fitted = estimation.maximize(kept, names, own, floor=floor, room=size_of, **options)
    # The weights are shares of all samples, not of this device's.
    alive = counts >= options["min_count"]
    whole = jnp.maximum(jnp.sum(jnp.where(alive, counts, 0)), 1)
    column = jnp.where(place // own == me, place - me * own, own)
    mine = jnp.zeros((own,), jnp.int32).at[column].set(counts, mode="drop")
    mine = jnp.where(mine >= options["min_count"], mine, 0).astype(features.dtype)
    weights = jnp.log(mine / whole.astype(features.dtype))
    return dataclasses.replace(fitted, log_weights=weights)


def _search(
    features: Float[Array, "n d"],
    valid: Bool[Array, " n"],
    shard: GaussianMixture,
    places: Int[Array, "p j"],
    *,
    axis: str,
    nearest: Nearest,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Assigns the samples of this device: the components of all go round (E-step)."""
    size, me = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    n, dtype = features.shape[0], features.dtype

    def meet(i: Array, carry: _Carried) -> _Carried:
        labels, cost, passing = carry
        names = places[(me - i) % size]
        # A tie is won by the first component, wherever it is at home.
        found, value = nearest(passing, features, limit=jnp.nextafter(cost, jnp.inf))
        name = names[jnp.maximum(found, 0)]
        wins = (found >= 0) & ((value < cost) | ((value == cost) & (name < labels)))
        labels = jnp.where(wins, name, labels)
        cost = jnp.where(wins, value, cost)
        return labels, cost, _ring(axis, passing)

    start = (jnp.zeros((n,), jnp.int32), jnp.full((n,), jnp.inf, dtype), shard)
    labels, cost, _ = jax.lax.fori_loop(0, size, meet, start)
    return jnp.where(valid, labels, -1), jnp.where(valid, cost, 0)
