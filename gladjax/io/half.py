"""Rows of mixtures in half precision: the form of a smaller model file.

A row is divided by its largest entry, which is kept in full, and what is left is
rounded to 11 bits. Rows of a complete component are lower triangular
(`gladjax.covariance`), and only that half of them is written. Everything else in a
model is small and stays exact.

Notation: ``k`` components, ``d`` features, ``r`` rows.

Differs from the reference in: there is none.

Reference: there is none.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Halved(NamedTuple):
    """Rows of a mixture in half precision.

    Attributes:
      entries: Rows one after another, each over its largest entry; of a triangular
        component row ``i`` has ``i + 1`` entries, of the others ``d``.
      scales: Largest entry of each row, by magnitude.
      triangular: Which components are triangular.
    """

    entries: Float[np.ndarray, " e"]
    scales: Float[np.ndarray, " r"]
    triangular: Bool[np.ndarray, " k"]


def pack(
    rows: Float[np.ndarray, "r d"],
    offsets: Int[np.ndarray, " k"],
    ranks: Int[np.ndarray, " k"],
) -> Halved:
    """Rounds rows to half precision.

    Args:
      rows: Rows of all components.
      offsets: First row of each component.
      ranks: Number of rows of each component.

    Returns:
      The rows, relative error of an entry at most ``2^-11`` of the row's largest.

    Raises:
      ValueError: If a row belongs to no component (`gladjax.mixture.compact` drops
        such rows).
    """
    d = rows.shape[1]
    if len(rows) != ranks.sum():
        raise ValueError("a row belongs to no component; compact the mixture first")
    scales = np.zeros(len(rows), rows.dtype)
    triangular = np.zeros(len(ranks), bool)
    lower = np.tril_indices(d)
    parts = []
    for c, (first, rank) in enumerate(zip(offsets, ranks, strict=True)):
        own = rows[first : first + rank]
        largest = np.abs(own).max(axis=1, initial=0)
        scales[first : first + rank] = largest
        scaled = own / np.where(largest > 0, largest, 1)[:, None]
        triangular[c] = rank == d and not np.any(np.triu(own, 1))
        kept = scaled[lower] if triangular[c] else scaled.ravel()
        parts.append(kept.astype(np.float16))
    return Halved(np.concatenate([np.zeros(0, np.float16), *parts]), scales, triangular)


def unpack(
    halved: Halved,
    offsets: Int[np.ndarray, " k"],
    ranks: Int[np.ndarray, " k"],
    num_features: int,
) -> Float[np.ndarray, "r d"]:
    """Returns rows in the precision of their scales.

    Args:
      halved: From `pack`.
      offsets: First row of each component.
      ranks: Number of rows of each component.
      num_features: ``d``.

    Raises:
      ValueError: If the parts do not fit each other.
    """
    d, r = num_features, len(halved.scales)
    if not len(halved.triangular) == len(ranks) == len(offsets):
        raise ValueError("the components differ in number")
    ends = offsets.astype(np.int64) + ranks
    # With as many rows as ranks, memory is at most four times what the file holds.
    outside = np.any(offsets < 0) or np.any(ranks < 0) or np.any(ends > r)
    if outside or ranks.sum(dtype=np.int64) != r:
        raise ValueError("a component's rows lie outside")
    if np.any(halved.triangular & (ranks != d)):
        raise ValueError("a triangular component is not complete")
    lengths = np.where(halved.triangular, d * (d + 1) // 2, ranks.astype(np.int64) * d)
    if lengths.sum() != len(halved.entries):
        raise ValueError("the rows have another length")
    rows = np.zeros((r, d), halved.scales.dtype)
    lower = np.tril_indices(d)
    starts = np.cumsum(lengths) - lengths
    for c, (first, rank) in enumerate(zip(offsets, ranks, strict=True)):
        part = halved.entries[starts[c] : starts[c] + lengths[c]].astype(rows.dtype)
        if halved.triangular[c]:
            rows[first : first + rank][lower] = part
        else:
            rows[first : first + rank] = part.reshape(rank, d)
        rows[first : first + rank] *= halved.scales[first : first + rank, None]
    return rows
