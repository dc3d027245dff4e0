"""The E-step of successive mixtures (on the host)."""

import numpy as np

from gladjax.assign.bounds import (
    TRIAL,
    Bounds,
    bounds,
    principal_axes,
    project,
    restrict,
    tune,
)
from gladjax.assign.candidates import CHUNK
from gladjax.assign.nearest import compete, settle
from gladjax.mixture import GaussianMixture


class Tracker:
    """The E-step of successive mixtures, computing only what may have changed.

    A sample whose component is as it was keeps its cost, and only components that
    changed can win it. (All living weights are divided by the same number when a
    component dies, so the others stay ordered.)

    Args:
      features: Samples, ``(n, d)``, the same at every call.
      valid: Samples that count, ``(n,)``.
    """

    def __init__(self, features: np.ndarray, valid: np.ndarray) -> None:
        """Chooses the leading coordinates and keeps a reference to the samples."""
        self._features = features
        self._used = np.flatnonzero(valid)
        self._basis = principal_axes(features, valid=valid)
        self._marginals: Bounds | None = None
        self._cost: np.ndarray | None = None
        self._constants = np.zeros(0)

    def __call__(
        self, mixture: GaussianMixture, labels: np.ndarray, changed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Assigns all valid samples.

        Args:
          mixture: The mixture, NumPy arrays.
          labels: The last assignment, -1 for invalid samples, ``(n,)``.
          changed: Components that differ from the last call's mixture.

        Returns:
          Labels, costs (0 for invalid samples), and the survivors of the first rows
          and the full costs per sample.
        """
        self._marginals = bounds(
            mixture, self._basis, reuse=self._marginals, changed=changed
        )
        n = len(labels)
        new_labels, new_cost = labels.copy(), np.zeros(n, mixture.means.dtype)
        dirty = np.ones(n, bool)
        if self._cost is not None:
            touched = np.zeros(len(mixture.means), bool)
            touched[changed] = True
            dirty = touched[labels]
            fixed = np.isfinite(self._constants) & ~touched
            shift = np.zeros_like(self._constants)
            shift[fixed] = self._marginals.constants[fixed] - self._constants[fixed]
            new_cost = self._cost + shift[labels]
        some = restrict(self._marginals, changed)
        survivors = evaluated = 0
        for first in range(0, len(self._used), CHUNK):
            index = self._used[first : first + CHUNK]
            samples = np.asarray(self._features[index])
            y = project(self._marginals, samples)
            for rows, anew in (
                (np.flatnonzero(dirty[index]), True),
                (np.flatnonzero(~dirty[index]), False),
            ):
                own, x, z = index[rows], samples[rows], y[rows]
                if anew:
                    rivals = self._marginals
                    settled = settle(mixture, rivals, x, labels[own])
                    evaluated += len(own)
                    if not first and len(own) > TRIAL:
                        rivals = tune(rivals, z, settled[1], settled[0])
                        self._marginals = rivals
                else:
                    rivals, settled = some, (labels[own], new_cost[own])
                found = compete(mixture, rivals, x, z, *settled)
                new_labels[own], new_cost[own] = found[:2]
                survivors += found[3]
                evaluated += found[4]
        self._cost, self._constants = new_cost, self._marginals.constants
        count = max(len(self._used), 1)
        return new_labels, new_cost, (survivors / count, evaluated / count)
