"""EM: the same mixture by soft assignment, the alternative of the paper's ablation.

One step weighs every sample by how likely each component is to have made it, and fits
every component to all samples so weighted:

    r_ik    = pi_k N_k(u_i) / sum_j pi_j N_j(u_i)
    n_k     = sum_i r_ik
    pi_k    = n_k / N,   mu_k = sum_i r_ik u_i / n_k,
    Sigma_k = OAS(S_k, n_k),   S_k = sum_i r_ik (u_i - mu_k)(u_i - mu_k)' / n_k

`step` is that, pure, for `jit` and `vmap`: it fits one component at a time to all
samples. `fit` iterates on the device with the search of `gladjax.assign`:
responsibilities below ``e^-30`` (in float64 ``e^-50``) of the largest are 0, which is
less than rounding does to the sums even for a million samples. The others are a list of
pairs, and the M-step is that of K-MLE with a weight per pair (`gladjax.estimation`): a
component of fewer than ``d`` samples stays structured.

Notation: ``n`` samples ``u``, ``k`` components, ``d`` features, ``p`` pairs of a sample
and a component that matters to it, ``t`` iterations.

Differs from the reference in
  1. The count in Eq. 9 is the effective one, ``n_k = sum_i r_ik``; the paper, which
     shrinks the covariances of K-MLE, names none for EM.
  2. Components whose ``n_k`` is below ``min_count`` are dropped, as in K-MLE (R3), and
     the weights divided by the sum of those that stay.
  3. The start is that of K-MLE (R4), and the same relative change of the log-likelihood
     ends both; here it is the mean of ``log sum_k pi_k N_k``. With shrinkage, or when a
     component is dropped, it may fall a little between steps.
  4. A sample belongs to several components, so up to ``k d`` rows are kept, where hard
     assignment needs ``min(n, k d)``; `step` always keeps ``k d``.

Reference: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM
algorithm", JRSS B 39(1), 1977; Artola et al., "GLAD", WACV 2023, Section 4.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import (
    assign,
    cache,
    covariance,
    devices,
    estimation,
    iteration,
    kmle,
    mixture,
    programs,
    routing,
    samples,
    seeding,
)
from gladjax.assign import Bounds
from gladjax.covariance import PRECISION, Shrinkage
from gladjax.iteration import KMLEInfo, Row, Snapshot
from gladjax.kmle import Seeding
from gladjax.mixture import AnyArray, GaussianMixture

# Costs (twice the nats) above the least one at which a responsibility counts as 0.
RANGE = {np.dtype(np.float32): 60.0, np.dtype(np.float64): 100.0}
PAIRS = 2  # Components per sample that there is room for at first.


class EMState(NamedTuple):
    """What the next step needs.

    Attributes:
      mixture: The mixture, with ``k d`` rows; dead components have weight 0.
      iteration: Number of steps done.
    """

    mixture: GaussianMixture
    iteration: Int[AnyArray, ""] | int


class Responsibilities(NamedTuple):
    """Which components may have made which samples.

    Attributes:
      owner: Sample of each pair.
      component: Component of each pair, -1 where there is none.
      share: Responsibility of the component for the sample; those of a sample add up
        to 1.
      labels: The most responsible component of each sample, -1 where not valid.
      log_sums: Twice the negative log-density of each sample, less its constant; 0
        where not valid.
      most: Pairs of the chunk that has most of them.
      counts: Survivors and full costs.
    """

    owner: Int[Array, " p"]
    component: Int[Array, " p"]
    share: Float[Array, " p"]
    labels: Int[Array, " n"]
    log_sums: Float[Array, " n"]
    most: Int[Array, ""]
    counts: Float[Array, " 2"]


def init(
    key: Key[Array, ""],
    features: Float[AnyArray, "n d"],
    *,
    num_components: int,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    seed: Seeding = seeding.kmeans_plus_plus,
) -> EMState:
    """Returns the first mixture of K-MLE, with room for ``k d`` rows.

    Args:
      key: Randomness.
      features: Samples.
      num_components: Number of components to start with, at most ``n``.
      valid: Samples that count; all by default.
      min_count: Components of fewer samples are dropped.
      shrinkage: Shrinkage intensity.
      seed: Draws the centres.

    Returns:
      The state before the first step.

    Raises:
      ValueError: If there are no samples or fewer than components.
    """
    first = kmle.init(
        key,
        features,
        num_components=num_components,
        valid=valid,
        min_count=min_count,
        shrinkage=shrinkage,
        seed=seed,
    ).mixture
    k, d = first.means.shape
    more = k * d - first.rows.shape[0]
    rows = jnp.pad(first.rows, ((0, more), (0, 0)))
    return EMState(dataclasses.replace(first, rows=rows), jnp.zeros((), jnp.int32))


def step(
    state: EMState,
    features: Float[AnyArray, "n d"],
    *,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> tuple[EMState, KMLEInfo]:
    """Weighs every sample, then fits every component; holds ``n k`` responsibilities.

    Args:
      state: From `init` or the last step.
      features: Samples.
      valid: Samples that count; all by default.
      min_count: Components of a smaller effective count are dropped.
      shrinkage: Shrinkage intensity.

    Returns:
      The next state, of the same shapes, and the log-likelihood before, the components
      after, and the most responsible components.

    Raises:
      ValueError: If the mixture does not have ``k d`` rows.
    """
    features = jnp.asarray(features)
    old = state.mixture
    (k, d), dtype = old.means.shape, features.dtype
    if old.rows.shape[0] != k * d:
        raise ValueError(
            f"the mixture must have k d = {k * d} rows, not {old.rows.shape[0]}: "
            "begin with em.init or mixture.from_moments"
        )
    n = features.shape[0]
    used = jnp.ones((n,), bool) if valid is None else jnp.asarray(valid)
    features = jnp.where(used[:, None], features, 0)
    ranks = devices.ranks(d, near=True)
    axes = assign.coordinates(features, valid=used, ranks=ranks)
    bounds = assign.prepare(old, axes)
    fixed = assign.constants(old)[:, None]
    costs = assign.search(old, bounds, features, fixed, reach=RANGE[dtype]).exact
    log_density = jax.nn.logsumexp(-0.5 * costs, axis=0)
    shares = jnp.where(used[None, :], jnp.exp(-0.5 * costs - log_density[None, :]), 0)
    floor = estimation.floor_of(features, used)

    def fit(carry: None, part: tuple[Array, Array]) -> tuple[None, tuple[Array, ...]]:
        share, middle = part
        total = jnp.sum(share)
        safe = jnp.maximum(total, jnp.finfo(dtype).tiny)
        e = features - middle[None, :]
        shift = jnp.sum(share[:, None] * e, axis=0) / safe
        B = jnp.sqrt(share)[:, None] * (e - shift[None, :])
        scatter = jnp.matmul(B.T, B, precision=PRECISION)
        own = covariance.whitened(scatter, safe, floor, shrinkage=shrinkage)
        return carry, (total, middle + shift, *own)

    _, parts = jax.lax.scan(fit, None, (shares, old.means))
    totals, means, rows, scales, noise, log_dets = parts
    kept = jnp.where(totals >= min_count, totals, 0)
    fitted = GaussianMixture(
        log_weights=jnp.log(kept / jnp.maximum(jnp.sum(kept), jnp.finfo(dtype).tiny)),
        means=means,
        rows=rows.reshape(k * d, d),
        inverses=jnp.zeros_like(old.inverses),
        offsets=jnp.arange(k, dtype=jnp.int32) * d,
        ranks=jnp.full((k,), d, jnp.int32),
        scales=scales,
        noise=noise,
        log_dets=log_dets,
    )
    mean = jnp.sum(jnp.where(used, log_density, 0)) / jnp.sum(used).astype(dtype)
    info = KMLEInfo(
        log_likelihood=mean - 0.5 * d * math.log(2 * math.pi),
        num_components=jnp.sum(kept > 0),
        labels=jnp.where(used, routing.least(costs)[1], -1),
    )
    return EMState(fitted, jnp.asarray(state.iteration) + 1), info


def fit(  # noqa: PLR0913 - the parameters of K-MLE
    key: Key[Array, ""],
    features: Float[AnyArray, "n d"],
    *,
    num_components: int = 1000,
    max_steps: int = 100,
    tolerance: float = 1e-6,
    valid: Bool[AnyArray, " n"] | None = None,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
    seed: Seeding = seeding.kmeans_plus_plus,
    monitor: Callable[[Snapshot], None] | None = None,
    resume: Snapshot | None = None,
) -> tuple[GaussianMixture, KMLEInfo]:
    """Iterates to the stopping rule of K-MLE.

    Args:
      key: Randomness of the seeds, the only one.
      features: Samples.
      num_components: Components to start with; at most one for every two valid
        samples, or every ``min_count``, is used.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      valid: Samples that count; all by default.
      min_count: Components of a smaller effective count are dropped.
      shrinkage: Shrinkage intensity.
      seed: Draws the centres.
      monitor: Called after every step; to show progress, to keep a `Snapshot`.
      resume: A snapshot of an interrupted fit of the same samples and options.

    Returns:
      The mixture, dead components dropped, the others in the order of the start; and
      what happened, step by step.

    Raises:
      ValueError: If there are no samples, or the options or the snapshot do not fit.
    """
    features = samples.checked(features, valid)
    n, d = features.shape
    count = n if valid is None else int(np.sum(valid))
    cache.release_programs()
    iteration.check_fit(num_components, count, max_steps, tolerance, min_count)
    if resume is None:
        start = kmle.fit(
            key,
            features,
            num_components=num_components,
            max_steps=0,
            valid=valid,
            min_count=min_count,
            shrinkage=shrinkage,
            seed=seed,
        )[0]
        labels, history = np.full(n, -1, np.int32), np.zeros((0, 5))
    else:
        labels, history = resume.labels, resume.history
        start = resume.mixture
        if start is None or labels.shape != (n,) or start.means.shape[1] != d:
            raise ValueError("the snapshot is of a fit to other features")
    steps = _Steps(features, valid, (min_count, shrinkage))
    (fitted, labels), history, converged = iteration.iterate(
        steps,
        (start, labels),
        history,
        dimension=d,
        max_steps=max_steps,
        tolerance=tolerance,
        monitor=monitor,
        snapshot=lambda state: {
            "labels": np.asarray(state[1]),
            "mixture": jax.tree.map(np.asarray, state[0]),
        },
    )
    info = iteration.reported(
        fitted.log_weights, np.asarray(labels), history, converged=converged
    )
    return mixture.compact(fitted), info


class _Steps:
    """The step for `iteration.iterate`: samples padded to whole chunks."""

    def __init__(
        self,
        features: AnyArray,
        valid: AnyArray | None,
        options: tuple[int, Shrinkage],
    ) -> None:
        n = features.shape[0]
        used = np.ones(n, bool) if valid is None else np.asarray(valid)
        self._n, self._count = n, int(used.sum())
        chunk = min(devices.sizes().chunk, n)
        missing = -n % chunk
        self._x = jnp.pad(jnp.asarray(features), ((0, missing), (0, 0)))
        self._used = jnp.pad(jnp.asarray(used), (0, missing))
        self._chunk, self._options = chunk, options
        self._pairs, self._entries = PAIRS * chunk, 1
        self._floor = _floor(self._x, self._used)
        if not np.isfinite(float(self._floor)):
            raise ValueError("features of samples that count must be finite")
        ranks = devices.ranks(self._x.shape[1], near=True)
        self._axes = samples.axes(self._x, self._used, ranks=ranks)

    def __call__(
        self, state: tuple[GaussianMixture, AnyArray]
    ) -> tuple[tuple[GaussianMixture, AnyArray], Row]:
        """Weighs every sample, then fits every component."""
        old, labels = jax.tree.map(jnp.asarray, state[0]), np.asarray(state[1])
        k, d = old.means.shape
        guess = np.pad(labels, (0, len(self._x) - self._n), constant_values=-1)
        bounds = assign.prepared(old, self._axes)
        while True:
            found = _expect(
                old, bounds, self._x, self._used, guess, self._chunk, self._pairs
            )
            most = int(found.most)
            if most <= self._pairs:
                break
            self._pairs = 1 << (most - 1).bit_length()
        needed = int(_needed(found.component, k, d))
        if needed > self._entries:
            self._entries = 1 << (needed - 1).bit_length()
        p = found.component.shape[0]
        fitted = _maximize(
            self._x,
            found.component,
            found.owner,
            found.share,
            self._floor,
            k,
            (min(p, k * d), self._entries),
            *self._options,
        )
        new = np.asarray(found.labels)[: self._n]
        alive = int(np.isfinite(np.asarray(fitted.log_weights)).sum())
        cost = float(np.sum(np.asarray(found.log_sums, np.float64))) / self._count
        counts = (np.asarray(found.counts, np.float64) / self._count).tolist()
        return (fitted, new), Row(cost, alive, int(np.sum(new != labels)), *counts)


@partial(programs.Program, static=("chunk", "size"))
def _expect(
    old: GaussianMixture,
    bounds: Bounds,
    features: Array,
    used: Array,
    guess: Array,
    chunk: int,
    size: int,
) -> Responsibilities:
    """The E-step: pairs of every chunk, at most ``size`` of them."""
    fixed = assign.constants(old)[:, None]
    padded = -chunk % assign.GROUP

    def visit(part: tuple[Array, ...]) -> tuple[Array, ...]:
        x, valid, start, first = part
        x = jnp.where(valid[:, None], x, jnp.nan)  # Not finite: without costs.
        found = assign.search(
            old, bounds, x, fixed, guess=start, reach=RANGE[features.dtype]
        )
        label, best = found.label, jnp.where(valid, found.best, 0)
        reach = best + RANGE[features.dtype]
        mask = (found.exact <= reach[None, :]) & valid[None, :]
        terms = jnp.where(mask, jnp.exp(0.5 * (best[None, :] - found.exact)), 0)
        sums = jnp.sum(terms, axis=0)
        mask = jnp.pad(mask, ((0, 0), (0, padded)))
        owner, component = assign.listed(mask, size)
        share = terms[jnp.maximum(component, 0), owner] / sums[owner]
        cost = jnp.where(valid, best - 2 * jnp.log(jnp.where(valid, sums, 1)), 0)
        label = jnp.where(valid, label, -1)
        seen = jnp.stack([found.survivors, found.evaluated]).astype(x.dtype)
        return owner + first, component, share, label, cost, jnp.sum(mask), seen

    def split(a: Array) -> Array:
        return a.reshape(-1, chunk, *a.shape[1:])

    firsts = jnp.arange(0, len(features), chunk, dtype=jnp.int32)
    parts = (split(features), split(used), split(jnp.asarray(guess)), firsts)
    owner, component, share, labels, cost, count, seen = jax.lax.map(visit, parts)
    return Responsibilities(
        owner.ravel(),
        component.ravel(),
        jnp.where(component >= 0, share, 0).ravel(),
        labels.ravel(),
        cost.ravel(),
        jnp.max(count),
        jnp.sum(seen, axis=0),
    )


@partial(programs.Program, static=("num_components", "dimension"))
def _needed(component: Array, num_components: int, dimension: int) -> Array:
    counts = jnp.zeros((num_components + 1,), jnp.int32).at[component].add(1)
    return estimation.num_inverses(counts[:num_components], dimension)


_floor = programs.Program(estimation.floor_of)


@partial(
    programs.Program,
    static=("num_components", "room", "min_count", "shrinkage"),
    alone=True,
)
def _maximize(  # noqa: PLR0913 - what the M-step takes, positional for jit
    features: Array,
    component: Array,
    owner: Array,
    share: Array,
    floor: Array,
    num_components: int,
    room: tuple[int, int],
    min_count: int,
    shrinkage: Shrinkage,
) -> GaussianMixture:
    """The M-step."""
    return estimation.maximize(
        features,
        component,
        num_components,
        owner=owner,
        weights=share,
        room=room,
        min_count=min_count,
        shrinkage=shrinkage,
        floor=floor,
    )
