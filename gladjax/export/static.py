"""Log-probability maps without a search: which pairs matter is known beforehand.

Where weights are local, few components are active at a position, and which ones is
known after training. So the pairs of a position and a component are constants, and the
costs of all of them are batched matrix products, without a branch or a loop: what a
format without this package's search can hold. Components of like rank and of about as
many positions are computed together, padded to the next power of two.

Nothing is left out that `gladjax.scoring` counts; it leaves out what is 20 nats below
the best, and where it has few features it forms distances from monomials.

Notation: ``p`` positions, ``k`` components, ``d`` features, ``b`` components of a
group, ``s`` positions of each, ``r`` rows, ``a`` active components of a position.

Differs from the reference in: nothing; this is the sum of Section 3.3.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.3.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import mixture
from gladjax.covariance import PRECISION
from gladjax.detector import Layer
from gladjax.mixture import GaussianMixture
from gladjax.scoring.maps import log_sums

LEAST = 16  # Positions, and rows, of a group.


class Group(NamedTuple):
    """Components whose costs are computed together.

    Attributes:
      positions: Where each of them is active; padded.
      means: Means.
      rows: Rows, 0 where there are no more.
      inverses: ``H``, 0 there; None where the rows whiten.
      scales: Weights of the scatter of the rows.
      noise: Variance of every direction.
    """

    positions: Int[np.ndarray, "b s"]
    means: Float[np.ndarray, "b 1 d"]
    rows: Float[np.ndarray, "b r d"]
    inverses: Float[np.ndarray, "b r r"] | None
    scales: Float[np.ndarray, "b 1"]
    noise: Float[np.ndarray, "b 1"]


class Static(NamedTuple):
    """A layer whose pairs are constants.

    Attributes:
      groups: Its components.
      places: Where the costs of each position stand among those of all groups.
      addends: What is added to them, infinite where there are no more.
    """

    groups: list[Group]
    places: Int[np.ndarray, "a p"]
    addends: Float[np.ndarray, "a p"]


def prepare(layer: Layer) -> Static:
    """Lists the pairs of a layer.

    Args:
      layer: The layer.

    Returns:
      The pairs, in groups.
    """
    addends = np.asarray(layer.prepared.addends)
    active = np.isfinite(addends)
    counts, ranks = active.sum(axis=1), np.asarray(layer.mixture.ranks)
    d = layer.mixture.means.shape[1]
    many = np.array([_room(int(count)) for count in counts])
    rows = np.array([d if rank == d else min(_room(int(rank)), d) for rank in ranks])
    place, groups, begun = np.zeros(active.shape, np.int64), [], 0
    for key in sorted({*zip(many, rows, ranks == d, strict=True)}):
        same = (many == key[0]) & (rows == key[1]) & ((ranks == d) == key[2])
        own = np.flatnonzero(same & (counts > 0))
        if len(own) == 0:
            continue
        positions = np.zeros((len(own), key[0]), np.int32)
        for i, k in enumerate(own):
            at = np.flatnonzero(active[k])
            positions[i, : len(at)] = at
            place[k, at] = begun + i * key[0] + np.arange(len(at))
        groups.append(_group(layer.mixture, own, positions, int(key[1]), bool(key[2])))
        begun += positions.size
    most = max(1, int(active.sum(axis=0).max()))
    first = np.argsort(~active, axis=0, kind="stable")[:most]
    return Static(
        groups,
        np.take_along_axis(place, first, 0).astype(np.int32),
        np.take_along_axis(addends, first, 0),
    )


def _room(count: int) -> int:
    return max(LEAST, 1 << max(count - 1, 0).bit_length())


def _group(
    given: GaussianMixture,
    own: Int[np.ndarray, " b"],
    positions: Int[np.ndarray, "b s"],
    size: int,
    whole: bool,
) -> Group:
    """Returns components with their rows in arrays of one shape."""
    d = given.means.shape[1]
    rows = np.zeros((len(own), size, d), given.rows.dtype)
    inverses = np.zeros((len(own), size, size), given.rows.dtype)
    flat, numbers = np.asarray(given.rows), np.asarray(given.inverses)
    begins = np.asarray(mixture.inverse_offsets(given))
    for i, k in enumerate(own):
        r, first = int(given.ranks[k]), int(given.offsets[k])
        rows[i, :r] = flat[first : first + r]
        if not whole:
            square = numbers[begins[k] : begins[k] + r * r]
            inverses[i, :r, :r] = square.reshape(r, r)
    return Group(
        positions,
        np.asarray(given.means)[own][:, None, :],
        rows,
        None if whole else inverses,
        np.asarray(given.scales)[own][:, None],
        np.asarray(given.noise)[own][:, None],
    )


def log_prob(static: Static, samples: Float[Array, "p d"]) -> Float[Array, " p"]:
    """Returns the log-probability of every position.

    Args:
      static: From `prepare`.
      samples: Features of all positions, finite.

    Returns:
      ``log p(x)`` in nats.
    """
    each = [_distances(group, samples).reshape(-1) for group in static.groups]
    distances = jnp.concatenate(each)[jnp.asarray(static.places)]
    total = log_sums(distances + jnp.asarray(static.addends))
    return total - 0.5 * samples.shape[1] * math.log(2 * math.pi)


def _distances(group: Group, samples: Float[Array, "p d"]) -> Float[Array, "b s"]:
    e = samples[jnp.asarray(group.positions)] - jnp.asarray(group.means)
    rows = jnp.asarray(group.rows)
    t = jnp.matmul(e, jnp.swapaxes(rows, 1, 2), precision=PRECISION)
    if group.inverses is None:
        return jnp.sum(jnp.square(t), axis=2)
    H = jnp.swapaxes(jnp.asarray(group.inverses), 1, 2)
    v = jnp.matmul(t, H, precision=PRECISION)
    a, s = jnp.asarray(group.scales), jnp.asarray(group.noise)
    f = e - a[:, :, None] * jnp.matmul(v, rows, precision=PRECISION)
    return jnp.sum(jnp.square(f), axis=2) / s + a * jnp.sum(jnp.square(v), axis=2)
