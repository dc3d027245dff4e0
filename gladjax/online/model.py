"""Moments of all components and the mixture that they give, kept in step."""

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import covariance, estimation, parts, routing
from gladjax.covariance import Factor, Shrinkage
from gladjax.online.moments import Moments, floor, joined, moments, scaled
from gladjax.parts import Part


class Model:
    """Moments of all components and the mixture that they give.

    Attributes:
      moments: Count, mean and root of every component.
      mixture: What they give, NumPy arrays.
      changed: Components fitted anew since this set was last cleared.

    Args:
      moments: To begin with.
      dtype: Type of the mixture.
      min_count: Components of a smaller count are dropped.
      shrinkage: Shrinkage intensity.
    """

    def __init__(
        self,
        moments: Sequence[Moments],
        dtype: np.dtype,
        min_count: int,
        shrinkage: Shrinkage,
    ) -> None:
        """Fits all components."""
        self.moments = list(moments)
        self.changed: set[int] = set()
        self._dtype, self._min_count, self._shrinkage = dtype, min_count, shrinkage
        self._floor = np.asarray(floor(self.moments), dtype)
        self._fitted: dict[int, Part] = {}
        self._refit(range(len(moments)))

    def absorb(
        self,
        features: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        before: float,
        now: float,
    ) -> None:
        """Adds a batch to what is known, by factors of the old and the new weights."""
        k = len(self.moments)
        order, starts = routing.group(labels, k)
        hit = np.flatnonzero(np.diff(starts)).tolist()
        if before != 1:
            self.moments = scaled(self.moments, before)
        weights = np.full(len(features), now)
        for c in hit if now else []:
            own = moments(features, rows[order[starts[c] : starts[c + 1]]], weights)
            self.moments[c] = joined(self.moments[c], own)
        self._refit(range(k) if before != 1 else hit)

    def replace(
        self,
        old: Sequence[Moments],
        features: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        components: np.ndarray,
    ) -> None:
        """Forms some components anew, from the old moments and labelled samples."""
        order, starts = routing.group(labels, len(self.moments))
        for c in components.tolist():
            own = moments(features, order[starts[c] : starts[c + 1]], weights)
            self.moments[c] = joined(old[c], own)
        self._refit(components.tolist())

    def _refit(self, components: Iterable[int]) -> None:
        components = list(components)
        self.changed |= set(components)
        alive = [c for c in components if self.moments[c][0] >= self._min_count]
        alive.sort(key=lambda c: -len(self.moments[c][2]))
        for c in components:
            self._fitted.pop(c, None)
        self._fitted |= parts.in_threads(self._fit, alive)
        d = len(self.moments[0][1])
        counts = np.array([part[0] for part in self.moments])
        counts[[c for c in range(len(counts)) if c not in self._fitted]] = 0
        self.mixture = parts.assemble(self._fitted, counts, d, self._dtype)

    def _fit(self, component: int) -> Part:
        count, mean, root = self.moments[component]
        (rank, d), n = root.shape, np.asarray(count, self._dtype)
        if rank == d:
            factor = parts.many(root.T @ root, n, self._floor, self._shrinkage)
        else:
            size = next(size for size in estimation.ladder(d) if size >= rank)
            padded = np.zeros((size, d), self._dtype)
            padded[:rank] = root
            options = (n, np.int32(rank), self._floor, self._shrinkage)
            factor = _few(padded, *options)
        return parts.part(mean.astype(self._dtype), factor)


@partial(jax.jit, static_argnames="shrinkage")
def _few(
    roots: Float[Array, "c d"],
    count: Float[Array, ""],
    limit: Int[Array, ""],
    floor: Float[Array, ""],
    shrinkage: Shrinkage,
) -> Factor:
    return covariance.spikes(roots, count, limit, floor, shrinkage=shrinkage)
