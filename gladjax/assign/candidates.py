"""Candidates by their bounds, and full costs of what remains (on the host).

Everything here returns or takes pairs: a sample and a component that may matter to it.
"""

import numpy as np

from gladjax import routing
from gladjax.assign.bounds import RAISE, Bounds, arrays
from gladjax.assign.bounds import constants as fixed
from gladjax.kernels import pairs, search
from gladjax.mixture import GaussianMixture

CHUNK = 32768  # Samples whose candidates are held at once.
CAPACITY = 24  # Candidates kept for a sample before it is looked at again.
TASK = 32  # Pairs of one component that share a pass over its rows.


def candidates(
    marginals: Bounds,
    y: np.ndarray,
    threshold: np.ndarray,
    *,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Lists the components that may cost no more than a threshold.

    Args:
      marginals: Bounds of the components to look at.
      y: Leading coordinates of the samples, ``(n, r)``.
      threshold: Largest cost of interest, ``(n,)``.
      skip: Position in the marginals to leave out for each sample, or -1, ``(n,)``.

    Returns:
      Pairs as two arrays, sample (in rising order) and component (rising within a
      sample); the least bound above each threshold, ``(n,)``; and how many components
      survived the first rows, in all.
    """
    n = len(y)
    dtype = threshold.dtype
    raised = threshold + RAISE[dtype] + 10 * np.finfo(dtype).eps * np.abs(threshold)
    skip = np.full(n, -1, np.int32) if skip is None else skip.astype(np.int32)
    shared = arrays(marginals)
    found, ids, margin, survivors = search.within(
        y, *shared, raised, skip, CAPACITY, 64
    )
    rows, columns = np.nonzero(np.arange(CAPACITY)[None, :] < found[:, None])
    owner, component = rows, ids[rows, columns]
    many = np.flatnonzero(found > CAPACITY)
    if len(many):
        lists = [(owner[~np.isin(owner, many)], component[~np.isin(owner, many)])]
        for part in np.array_split(many, -(-len(many) // 256)):
            width = int(found[part].max())
            found_, ids_, _, _ = search.within(
                y[part], *shared, raised[part], skip[part], width, 4
            )
            rows, columns = np.nonzero(np.arange(width)[None, :] < found_[:, None])
            lists.append((part[rows], ids_[rows, columns]))
        owner = np.concatenate([pair[0] for pair in lists])
        component = np.concatenate([pair[1] for pair in lists])
        order = np.argsort(owner, kind="stable")
        owner, component = owner[order], component[order]
    return owner, marginals.ids[component], margin, int(survivors.sum())


def pair_costs(
    mixture: GaussianMixture,
    samples: np.ndarray,
    owner: np.ndarray,
    component: np.ndarray,
    *,
    constants: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the full cost of (sample, component) pairs.

    Args:
      mixture: The mixture, on the host.
      samples: ``(n, d)``.
      owner: Sample of each pair, ``(p,)``.
      component: Component of each pair, ``(p,)``.
      constants: What to add to the distance, ``(k,)``; by default
        ``log|Sigma_k| - 2 log pi_k``.

    Returns:
      The cost of each pair, ``(p,)``.
    """
    order, starts = routing.group(component, mixture.means.shape[0])
    out = np.empty(len(owner), mixture.means.dtype)
    out[order] = pairs.costs(
        samples.astype(mixture.means.dtype, copy=False),
        owner[order],
        routing.tasks(starts, size=TASK),
        mixture.means,
        mixture.rows,
        mixture.variances,
        mixture.offsets,
        mixture.ranks,
        mixture.noise,
        fixed(mixture) if constants is None else constants,
    )
    return out
