"""Sufficient statistics of a mixture's components, as arrays."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from gladjax import covariance, routing
from gladjax.covariance import Shrinkage
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.online.model import Model
from gladjax.online.moments import Moments, joined, moments, scaled
from gladjax.pytree import pytree


@pytree
class Statistics:
    """Sufficient statistics of every component.

    Attributes:
      counts: Number of samples, a sum of weights where these are not 1; float64.
      means: Their means.
      roots: Rows ``B_k`` of all components, component after component, where
        ``B_k' B_k`` is the sum of outer products of the centred samples.
      offsets: First row of each component.
      ranks: Number of rows of each component, at most ``d``.
    """

    counts: Float[AnyArray, " k"]
    means: Float[AnyArray, "k d"]
    roots: Float[AnyArray, "r d"]
    offsets: Int[AnyArray, " k"]
    ranks: Int[AnyArray, " k"]


def statistics(
    features: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    num_components: int,
    *,
    weights: Float[AnyArray, " n"] | None = None,
) -> Statistics:
    """Returns the sufficient statistics of labelled samples.

    Args:
      features: Samples; a memory-mapped array is read component by component.
      labels: Component of each sample, negative where not used: for those of a fit,
        ``KMLEInfo.labels``.
      num_components: Number of components ``k``.
      weights: How much each sample counts, 1 by default.

    Returns:
      The statistics; components without samples have count 0 and mean 0.

    Raises:
      ValueError: If the labels do not fit the samples.
    """
    labels = np.asarray(labels)
    if labels.shape != (features.shape[0],):
        raise ValueError(f"there are {len(features)} samples and {len(labels)} labels")
    if len(labels) and labels.max() >= num_components:
        raise ValueError(f"a label is not below num_components={num_components}")
    every = np.ones(len(labels)) if weights is None else np.asarray(weights)
    order, starts = routing.group(labels, num_components)
    spans = [order[starts[c] : starts[c + 1]] for c in range(num_components)]
    return packed(
        [moments(features, span, every) for span in spans], np.dtype(features.dtype)
    )


def estimate(
    kept: Statistics,
    *,
    min_count: int = 2,
    shrinkage: Shrinkage = covariance.oas,
) -> GaussianMixture:
    """Fits every component to its statistics (Eqs. 2, 3, 8, 9).

    Args:
      kept: Statistics.
      min_count: Components of a smaller count are dropped.
      shrinkage: Shrinkage intensity.

    Returns:
      The mixture that the samples behind the statistics would give; NumPy arrays,
      dropped components with weight 0.
    """
    dtype = np.dtype(np.asarray(kept.means).dtype)
    model = Model(unpacked(kept), dtype, min_count, shrinkage)
    return model.mixture


def merge(
    old: Statistics,
    new: Statistics,
    *,
    old_weight: float = 1.0,
    new_weight: float = 1.0,
) -> Statistics:
    """Returns the statistics of two sets of samples together.

    Args:
      old: Statistics of one set.
      new: Of the other, of the same components.
      old_weight: Factor of the weights in the first.
      new_weight: Factor of the weights in the second.

    Returns:
      Statistics of the union.
    """
    pairs = zip(
        scaled(unpacked(old), old_weight),
        scaled(unpacked(new), new_weight),
        strict=True,
    )
    dtype = np.dtype(np.asarray(old.means).dtype)
    return packed([joined(*pair) for pair in pairs], dtype)


def packed(every: Sequence[Moments], dtype: np.dtype) -> Statistics:
    """Returns the moments of all components as statistics."""
    ranks = np.array([len(root) for _, _, root in every], np.int32)
    return Statistics(
        counts=np.array([n for n, _, _ in every], np.float64),
        means=np.stack([mean for _, mean, _ in every]).astype(dtype),
        roots=np.concatenate([root for _, _, root in every]).astype(dtype),
        offsets=(np.cumsum(ranks) - ranks).astype(np.int32),
        ranks=ranks,
    )


def unpacked(kept: Statistics) -> list[Moments]:
    """Returns the moments of every component."""
    kept = jax.tree.map(np.asarray, kept)
    return [
        (float(n), mean.astype(np.float64), kept.roots[first : first + rank])
        for n, mean, first, rank in zip(
            kept.counts, kept.means, kept.offsets, kept.ranks, strict=True
        )
    ]
