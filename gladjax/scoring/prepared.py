"""What can be known of a layer before the first image is scored."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from gladjax import assign, routing
from gladjax.kernels import stage
from gladjax.mixture import GaussianMixture
from gladjax.weights import LocalWeights


class Prepared(NamedTuple):
    """A layer made ready for scoring, on the host.

    After training it is known which components are active where. The entries of the
    list of active components are grouped by component once, so that every image finds
    its work routed.

    Attributes:
      bounds: Whitened marginals of the mixture, in the principal axes of its means.
      addends: What an entry adds to the distance, ``log|Sigma_k| - 2 log pi_k(x)``.
      owners: The position of each entry.
      entries: Entries, grouped by component.
      places: The position of each of them.
      tasks: Component, first and end in the grouped order, of each piece of work.
    """

    bounds: assign.Bounds
    addends: Float[np.ndarray, " e"]
    owners: Int[np.ndarray, " e"]
    entries: Int[np.ndarray, " e"]
    places: Int[np.ndarray, " e"]
    tasks: Int[np.ndarray, "t 3"]


def prepare(
    mixture: GaussianMixture, local_weights: LocalWeights, *, rank: int = 32
) -> Prepared:
    """Prepares a layer for repeated scoring.

    Args:
      mixture: The mixture.
      local_weights: Its local weights.
      rank: Leading coordinates of the bounds.

    Returns:
      Bounds and routing.
    """
    mixture, local = jax.tree.map(np.asarray, (mixture, local_weights))
    bounds = assign.bounds(mixture, assign.principal_axes(mixture.means), rank=rank)
    entries, starts = routing.group(local.components, len(mixture.means))
    count = len(local.starts) - 1
    owners = np.repeat(np.arange(count, dtype=np.int32), np.diff(local.starts))
    return Prepared(
        bounds=bounds,
        addends=mixture.log_dets[local.components] - 2 * local.log_weights,
        owners=owners,
        entries=entries,
        places=owners[entries],
        tasks=routing.tasks(starts, size=stage.LANES),
    )
