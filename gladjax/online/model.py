"""Moments of all components and the mixture that they give, kept in step."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gladjax import factors, mixture, programs, routing
from gladjax.covariance import Shrinkage
from gladjax.mixture import GaussianMixture
from gladjax.online.moments import Moments, floor, joined, moments, scaled

TOGETHER = 32  # The number of components is a multiple of it, the last ones dead.


class Model:
    """Moments of all components and the mixture that they give.

    Attributes:
      moments: Count, mean and root of every component.
      padded: The mixture that they give, its flat arrays with room to grow, so that
        few programs are compiled.

    Args:
      moments: To begin with.
      dtype: Type of the mixture.
      min_count: Components of a smaller count are dropped.
      shrinkage: Shrinkage intensity.
      more: Components that may come.
    """

    def __init__(
        self,
        moments: Sequence[Moments],
        dtype: np.dtype,
        min_count: int,
        shrinkage: Shrinkage,
        *,
        more: int = 0,
    ) -> None:
        """Fits all components."""
        self.moments = list(moments)
        self._dtype, self._min_count, self._shrinkage = dtype, min_count, shrinkage
        self._floor = np.asarray(floor(self.moments), dtype)
        # Dead components make room for those that come.
        self._most = -(-(len(moments) + more) // TOGETHER) * TOGETHER
        self._room = 0, 0
        self.refit()

    def adopt(self, given: GaussianMixture) -> None:
        """Takes a mixture for that which the moments give."""
        given = mixture.chosen(given, np.arange(len(self.moments)))
        rows, entries = self._room
        rows, entries = max(rows, len(given.rows)), max(entries, len(given.inverses))
        self.padded = mixture.padded(mixture.extended(given, self._most), rows, entries)

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
        self.refit()

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
        self.refit()

    def refit(self) -> None:
        """Fits every component to its moments (Eqs. 2, 3, 8, 9)."""
        d, dtype = len(self.moments[0][1]), self._dtype
        counts = np.array([n for n, _, _ in self.moments])
        alive = counts >= self._min_count
        # Copies have no scatter; one row of zeros stands for it.
        roots = [
            root if len(root) else np.zeros((1, d), dtype)
            for _, _, root in self.moments
        ]
        ranks = np.where(alive, [len(root) for root in roots], 0).astype(np.int32)
        rows = np.concatenate(
            [np.zeros((0, d), dtype), *(roots[c] for c in np.flatnonzero(alive))]
        )
        entries = int(np.sum(np.where(ranks < d, ranks.astype(np.int64) ** 2, 0)))
        # Room for twice as much, so that few programs are compiled.
        k = self._most
        bounds = zip((len(rows), entries), (k * d, k * (d - 1) ** 2), strict=True)
        self._room = tuple(
            held if need < held else min(mixture.room(2 * need), most + 1)
            for held, (need, most) in zip(self._room, bounds, strict=True)
        )
        shares = np.where(alive, counts, 0)
        with np.errstate(divide="ignore"):
            log_weights = np.log(shares / max(shares.sum(), np.finfo(dtype).tiny))
        means = np.stack([mean for _, mean, _ in self.moments]).astype(dtype)
        more = (0, k - len(counts))
        counts, ranks = np.pad(counts, more), np.pad(ranks, more)
        blank = GaussianMixture(
            log_weights=np.pad(
                log_weights.astype(dtype), more, constant_values=-np.inf
            ),
            means=np.pad(means, (more, (0, 0))),
            rows=np.pad(rows.astype(dtype), ((0, self._room[0] - len(rows)), (0, 0))),
            inverses=np.zeros(self._room[1], dtype),
            offsets=(np.cumsum(ranks) - ranks).astype(np.int32),
            ranks=ranks,
            scales=np.zeros(k, dtype),
            noise=np.ones(k, dtype),
            log_dets=np.zeros(k, dtype),
        )
        floor, shrinkage = self._floor, self._shrinkage
        self.padded = _fitted(blank, counts.astype(dtype), floor, shrinkage)

    @property
    def mixture(self) -> GaussianMixture:
        """What the moments give, without unused rows; NumPy arrays."""
        return mixture.first(self.padded, len(self.moments))


@partial(programs.Program, static=("shrinkage",), alone=True)
def _fitted(
    blank: GaussianMixture, counts: Array, floor: Array, shrinkage: Shrinkage
) -> GaussianMixture:
    blank = jax.tree.map(jnp.asarray, blank)
    return factors.from_roots(blank, counts, floor, shrinkage=shrinkage)
