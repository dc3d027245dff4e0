"""The nearest component of every sample, and a certificate (on the host)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from gladjax.assign.bounds import TRIAL, Bounds, bounds, principal_axes, project, tune
from gladjax.assign.candidates import CHUNK, candidates, pair_costs
from gladjax.assign.info import AssignInfo
from gladjax.assign.plan import plan
from gladjax.assign.pruned import pruned
from gladjax.kernels import search
from gladjax.mixture import AnyArray, GaussianMixture

_pruned = jax.jit(pruned)
BACKENDS = ("auto", "numba", "jax")
GUESSES = 4  # Nearest means whose components are tried first.


def nearest(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    backend: str = "auto",
) -> tuple[Int[AnyArray, " n"], Float[AnyArray, " n"]]:
    """Returns the component of least cost of every sample (Eq. 1).

    The search is pruned everywhere: in compiled kernels on the host, or in JAX (see
    `pruned`).

    Args:
      mixture: The mixture.
      features: Samples.
      start: A guess for each sample, -1 for none; it changes the time, never the
        answer.
      backend: ``"numba"``, ``"jax"``, or ``"auto"``: Numba outside of a trace and on a
        CPU, JAX inside ``jit`` or ``vmap`` and on accelerators.

    Returns:
      The labels of the dense argmin, the first of equals, and the costs ``D_k(u)``.

    Raises:
      ValueError: If the backend is none of these, or Numba is asked for in a trace.
    """
    if uses_jax(backend, (mixture, features, start)):
        if traced((mixture, features, start)):
            return pruned(mixture, features, start=start)
        chosen = plan(mixture, features)
        return _pruned(mixture, jnp.asarray(features), start=start, plan=chosen)
    labels, cost, _ = nearest_info(mixture, features, start=start)
    return labels, cost


def traced(arrays: object) -> bool:
    """Tells whether one of the arrays of a pytree is inside of a trace."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays))


def uses_jax(backend: str, arrays: object) -> bool:
    """Tells whether a computation runs in JAX, or in Numba's kernels on the host.

    Args:
      backend: ``"numba"``, ``"jax"``, or ``"auto"`` to choose by platform.
      arrays: A pytree of what it is given; traced arrays ask for JAX.

    Returns:
      True for JAX.

    Raises:
      ValueError: If the backend is none of these, or Numba is asked for in a trace.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, not {backend!r}")
    inside = traced(arrays)
    if inside and backend == "numba":
        raise ValueError("backend='numba' runs on the host, not inside of a trace")
    if backend == "auto":
        return inside or jax.default_backend() != "cpu"
    return backend == "jax"


def nearest_info(
    mixture: GaussianMixture,
    features: Float[AnyArray, "n d"],
    *,
    start: Int[AnyArray, " n"] | None = None,
    marginals: Bounds | None = None,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], AssignInfo]:
    """Returns what `nearest` returns, with a certificate and counts (on the host).

    Args:
      mixture: The mixture, concrete.
      features: Samples; a memory-mapped array is read in chunks.
      start: A guess for each sample, -1 for none.
      marginals: The mixture's `bounds`, if they are at hand.

    Returns:
      Labels, costs, and how they came about.
    """
    mixture = jax.tree.map(np.asarray, mixture)
    if marginals is None:
        marginals = bounds(mixture, principal_axes(features))
    n = features.shape[0]
    labels = np.empty(n, np.int32)
    cost, margin = (np.empty(n, mixture.means.dtype) for _ in range(2))
    survivors = evaluated = 0
    for first in range(0, n, CHUNK):
        part = slice(first, min(first + CHUNK, n))
        samples = np.asarray(features[part])
        guess = np.full(len(samples), -1) if start is None else np.asarray(start[part])
        y = project(marginals, samples)
        settled = settle(mixture, marginals, samples, guess.astype(np.int32))
        if not first and len(samples) > TRIAL:
            marginals = tune(marginals, y, settled[1], settled[0])
        found = compete(mixture, marginals, samples, y, *settled)
        labels[part], cost[part], margin[part] = found[:3]
        survivors += found[3]
        evaluated += found[4] + len(samples)
    info = AssignInfo(
        margin=margin,
        survivors=survivors / max(n, 1),
        evaluated=evaluated / max(n, 1),
        rank=marginals.means.shape[1],
        stage=marginals.stage_means.shape[0],
    )
    return labels, cost, info


def settle(
    mixture: GaussianMixture,
    marginals: Bounds,
    samples: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a living component for every sample, and its full cost."""
    labels = labels.copy()
    labels[~np.isfinite(marginals.constants[labels])] = -1
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        labels[unknown] = _guess(mixture, samples[unknown])
    return labels, pair_costs(mixture, samples, np.arange(len(samples)), labels)


def _guess(mixture: GaussianMixture, samples: np.ndarray) -> np.ndarray:
    """Returns the best of the components with the nearest means."""
    alive = np.flatnonzero(np.isfinite(mixture.log_weights))
    means = mixture.means[alive]
    few = min(GUESSES, len(alive))
    half = 0.5 * np.sum(np.square(means), axis=1)
    near = np.empty((len(samples), few), np.int64)
    for first in range(0, len(samples), 4096):
        part = slice(first, first + 4096)
        distance = half - samples[part] @ means.T
        near[part] = search.least(distance, few, 64)
    near = alive[near].astype(np.int32)
    owner = np.repeat(np.arange(len(samples)), few)
    cost = pair_costs(mixture, samples, owner, near.ravel()).reshape(near.shape)
    return near[np.arange(len(samples)), np.argmin(cost, axis=1)]


def compete(
    mixture: GaussianMixture,
    marginals: Bounds,
    samples: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    cost: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Lets the components of the marginals compete with the labels at hand.

    Returns:
      Labels, costs, margins, survivors of the first rows and full costs (in all).
    """
    position = np.full(mixture.means.shape[0], -1, np.int32)
    position[marginals.ids] = np.arange(len(marginals.ids), dtype=np.int32)
    owner, component, margin, survivors = candidates(
        marginals, y, cost, skip=position[labels]
    )
    rival = pair_costs(mixture, samples, owner, component)
    best, winner = cost.copy(), labels.copy()
    np.minimum.at(best, owner, rival)
    # Pairs are sorted by sample, then component: the first of equals wins.
    wins = rival == best[owner]
    winner[owner[wins][::-1]] = component[wins][::-1]
    tied = np.flatnonzero(best == cost)
    winner[tied] = np.minimum(winner[tied], labels[tied])
    # The margin is to the least of all other costs and bounds.
    others = np.where(component == winner[owner], np.inf, rival)
    np.minimum.at(margin, owner, others.astype(margin.dtype))
    margin = np.where(winner == labels, margin, np.minimum(margin, cost))
    return winner, best, margin - best, survivors, len(owner)
