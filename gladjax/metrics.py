"""How well scores separate anomalous from normal, exactly.

Three numbers: the area under the ROC curve of images, of pixels, and the area under the
per-region overlap. All are functions of the *order* of the scores alone, so scores of
any range will do, infinite ones included; nothing is squashed, clamped or binned. All
are means over the anomalous items of how few normal ones outrank each: sort the normal
scores once, look the anomalous ones up. That is exact, ties included, in the memory of
the scores, and takes seconds for 200 maps of 256 x 256.

Notation: ``F`` the share of normal pixels at or above a threshold (the false-positive
rate), ``L`` its limit, ``s`` the score of an anomalous pixel; higher is more anomalous.

Differs from the reference in:

1. The curve of the per-region overlap has a point at each distinct score, and the area
   up to the limit is its exact integral, not a sum over chosen thresholds.

Reference: Fawcett. "An introduction to ROC analysis". Pattern Recognition Letters
27(8), 2006. Bergmann et al. "The MVTec Anomaly Detection Dataset". IJCV 129, 2021,
section 5 (per-region overlap).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int64, Num, Shaped

Listed = Sequence[int | float | np.number]
Vector = Shaped[np.ndarray, " n"] | Shaped[Array, " n"] | Listed
Maps = Iterable[Shaped[np.ndarray, "_h _w"] | Shaped[Array, "_h _w"]]
Masks = Iterable[Shaped[np.ndarray, "_h _w"] | Shaped[Array, "_h _w"] | None]


def auroc(labels: Vector, scores: Vector) -> float:
    """Returns the area under the ROC curve.

    This is the probability that an anomalous item outranks a normal one, ties counted
    half (the Mann-Whitney statistic).

    Args:
      labels: 0 normal, 1 anomalous.
      scores: Any real numbers or infinities; higher is more anomalous.

    Returns:
      The area, in [0, 1].

    Raises:
      ValueError: If lengths differ, a label is neither 0 nor 1, a score is NaN, or
        there is only one class.

    Example:
      >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 9.0])
      0.875
    """
    anomalous, values = _checked(labels, scores)
    return _area([values[anomalous]], [values[~anomalous]])


def roc_curve(
    labels: Vector, scores: Vector
) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " p"]]:
    """Returns the points of the ROC curve, from (0, 0) to (1, 1).

    Args:
      labels: 0 normal, 1 anomalous.
      scores: Any real numbers or infinities; higher is more anomalous.

    Returns:
      The false-positive and true-positive rates at each distinct score, rising.

    Raises:
      ValueError: As in `auroc`.
    """
    anomalous, values = _checked(labels, scores)
    levels = np.unique(values)[::-1]
    rates = []
    for part in (values[~anomalous], values[anomalous]):
        above = part.size - np.searchsorted(np.sort(part), levels, side="left")
        rates.append(np.concatenate([[0.0], above / part.size]))
    return rates[0], rates[1]


def pixel_auroc(masks: Masks | None, maps: Maps) -> float | None:
    """Returns the area under the ROC curve of all pixels of all images.

    Args:
      masks: One mask per image, nonzero at anomalous pixels; ``None`` for an image
        whose pixels are not known, which does not count, or if there is none at all.
      maps: One map of scores per image, of the size of its mask.

    Returns:
      The area, in [0, 1]; ``None`` without masks.

    Raises:
      ValueError: If the numbers or sizes differ, a score is NaN, or no pixel is
        anomalous, or none is normal.
    """
    if masks is None:
        return None
    normal, regions = _split(masks, maps)
    return _area([np.concatenate(regions)] if regions else [], normal)


def aupro(masks: Masks | None, maps: Maps, *, max_fpr: float = 0.3) -> float | None:
    """Returns the area under the per-region overlap up to a false-positive rate.

    The overlap at a threshold is the share of an anomalous region's pixels at or above
    it, averaged over the regions of all images, each of the same weight whatever its
    size. It is integrated over the false-positive rate of the normal pixels of all
    images, from 0 to the limit, and divided by the limit.

    Args:
      masks: One mask per image, nonzero at anomalous pixels, of 8-connected regions;
        ``None`` for an image whose pixels are not known, which does not count, or if
        there are none.
      maps: One map of scores per image, of the size of its mask.
      max_fpr: The limit ``L``, in (0, 1].

    Returns:
      The normalised area, in [0, 1]; ``None`` without masks.

    Raises:
      ValueError: If the limit is out of range, the numbers or sizes differ, a score is
        NaN, or no pixel is anomalous, or none is normal.
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be in (0, 1], not {max_fpr}")
    if masks is None:
        return None
    normal, regions = _split(masks, maps)
    return _area(regions, normal, limit=max_fpr)


def label_regions(mask: Shaped[np.ndarray, "h w"]) -> Int64[np.ndarray, "h w"]:
    """Numbers the 8-connected regions of a mask.

    Rows are cut into runs; runs of neighbouring rows that touch, corners included, are
    joined by passing on the least number until nothing changes.

    Args:
      mask: Nonzero inside regions.

    Returns:
      0 outside, 1, 2, ... inside, in the order of the regions' first pixels.
    """
    height, width = mask.shape
    edges = np.diff(np.pad(mask != 0, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # exclusive
    stride = width + 2
    above = (rows - 1) * stride
    first = np.searchsorted(rows * stride + ends, above + starts, side="left")
    stop = np.searchsorted(rows * stride + starts, above + ends, side="right")
    counts = np.maximum(stop - first, 0)
    lower = np.repeat(np.arange(rows.size), counts)
    offsets = np.arange(lower.size) - np.repeat(np.cumsum(counts) - counts, counts)
    numbers = _join(rows.size, lower, np.repeat(first, counts) + offsets)
    labels = np.zeros((height, width), np.int64)
    labels[mask != 0] = np.repeat(numbers, ends - starts)
    return labels


def _join(
    count: int, a: Int64[np.ndarray, " e"], b: Int64[np.ndarray, " e"]
) -> Int64[np.ndarray, " r"]:
    """Returns the number, from 1, of the connected set of each node; edges are a, b."""
    parent = np.arange(count)
    while True:
        low = np.minimum(parent[a], parent[b])
        if np.array_equal(low, np.maximum(parent[a], parent[b])):
            return np.unique(parent, return_inverse=True)[1].astype(np.int64) + 1
        np.minimum.at(parent, parent[a], low)
        np.minimum.at(parent, parent[b], low)
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]


def _area(
    regions: Sequence[Num[np.ndarray, " _n"]],
    normal: Sequence[Num[np.ndarray, " _m"]],
    *,
    limit: float = 1.0,
) -> float:
    """Returns the normalised area, averaged over the regions.

    A pixel of score ``s`` counts from the false-positive rate ``F(> s)`` on; where
    normal pixels tie with it, the curve rises linearly until ``F(>= s)``. Its share of
    the area up to ``L`` is therefore ``L - (F(> s) + F(>= s)) / 2``, and, where the
    limit cuts the rise, ``(L - F(> s))^2 / (2 (F(>= s) - F(> s)))``.
    """
    sizes = np.array([region.size for region in regions])
    m = sum(part.size for part in normal)
    if not sizes.sum() or not m:
        missing = "normal" if sizes.sum() else "anomalous"
        raise ValueError(f"nothing is {missing}: the area is not defined")
    ranked = np.sort(np.concatenate(normal))
    scores = np.concatenate(regions)
    order = np.argsort(scores)  # Looking up in order is kind to the cache.
    shares = np.empty(scores.size, np.float64)
    above = (m - np.searchsorted(ranked, scores[order], side="right")) / m
    not_below = (m - np.searchsorted(ranked, scores[order], side="left")) / m
    rise = np.where(not_below > above, not_below - above, 1.0)
    cut = np.maximum(limit - above, 0.0) ** 2 / (2 * rise)
    whole = limit - (above + not_below) / 2
    shares[order] = np.where(not_below <= limit, whole, cut)
    sums = np.add.reduceat(shares, np.cumsum(sizes) - sizes)
    return float(np.mean(sums / sizes) / limit)


def _checked(
    labels: Vector, scores: Vector
) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns labels as booleans and scores as floats, or says what is wrong."""
    given, values = np.asarray(labels), _as_float(scores)
    if given.ndim != 1 or given.shape != values.shape:
        raise ValueError(f"{given.shape} labels do not match {values.shape} scores")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("a label is neither 0 nor 1")
    if np.isnan(values).any():
        raise ValueError(f"score {int(np.isnan(values).argmax())} is NaN")
    return given.astype(bool), values


def _as_float(values: object) -> np.ndarray:
    """Converts to a float type that holds the values: float32 stays as it is."""
    array = np.asarray(values)
    return (
        array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    )


def _split(
    masks: Masks, maps: Maps
) -> tuple[list[Float[np.ndarray, " _m"]], list[Float[np.ndarray, " _n"]]]:
    """Returns the scores of normal pixels by image, and of anomalous ones by region."""
    normal, regions = [], []
    for number, (given, scores) in enumerate(zip(masks, maps, strict=True)):
        if given is None:
            continue
        mask, values = np.asarray(given) != 0, _as_float(scores)
        if mask.shape != values.shape:
            raise ValueError(
                f"mask {number} is {mask.shape}, its map {values.shape}; resize one"
            )
        if np.isnan(values).any():
            raise ValueError(f"map {number} has NaN in it")
        normal.append(values[~mask])
        if mask.any():
            labels = label_regions(mask)[mask]
            order = np.argsort(labels, kind="stable")
            ends = np.cumsum(np.bincount(labels)[1:])[:-1]
            regions.extend(np.split(values[mask][order], ends))
    return normal, regions
