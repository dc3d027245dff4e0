"""What can be known of a layer before the first image is scored."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from gladjax import assign, routing
from gladjax.kernels import stage
from gladjax.mixture import GaussianMixture
from gladjax.routing import Blocks
from gladjax.scoring.routed import pair_blocks
from gladjax.weights import LocalWeights

FEW = 48  # Up to this many features the bounds take all of them, and are the costs.
RANK = 32  # Leading coordinates of more features.


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
      blocks: The same for JAX, on the device; None where Numba is to score.
    """

    bounds: assign.Bounds
    addends: Float[np.ndarray, " e"]
    owners: Int[np.ndarray, " e"]
    entries: Int[np.ndarray, " e"]
    places: Int[np.ndarray, " e"]
    tasks: Int[np.ndarray, "t 3"]
    blocks: Blocks | None = None


def prepare(
    mixture: GaussianMixture,
    local_weights: LocalWeights,
    *,
    rank: int | None = None,
    backend: str = "auto",
) -> Prepared:
    """Prepares a layer for repeated scoring.

    Args:
      mixture: The mixture.
      local_weights: Its local weights.
      rank: Leading coordinates of the bounds; by default all if they are few.
      backend: What will score, see `log_prob_map`.

    Returns:
      Bounds and routing.

    Raises:
      ValueError: If the backend is not known.
    """
    mixture, local = jax.tree.map(np.asarray, (mixture, local_weights))
    in_jax = assign.uses_jax(backend, ())
    d = mixture.means.shape[1]
    leading = rank or (d if d <= FEW else RANK)
    bounds = assign.bounds(mixture, assign.principal_axes(mixture.means), rank=leading)
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
        blocks=pair_blocks(local, len(mixture.means)) if in_jax else None,
    )
