"""Decisions from normal images only: split-conformal p-values and thresholds.

Scores of ``n`` normal images that the detector has not learnt from are kept. A new
image of score ``s`` gets the p-value

    p = (1 + #{calibration scores >= s}) / (n + 1)

and is called anomalous where ``p <= alpha``, the false-positive rate asked for. If the
new image is normal, and exchangeable with the calibration images, then over the draw of
both ``P(p <= alpha) <= alpha``: no assumption on the scores, none on the mixture. No
p-value is below ``1 / (n + 1)``, so a rate of 1 % needs 99 images; with fewer there is
no threshold, and no decision is invented.

The same scores make a p-value map (`p_value_map`): every cell of minus the log-map is
ranked among them. An image's score is the quantile ``q`` of its cells, so in a normal
image the chance that more than a share ``q`` of the cells (to within one cell) has
``p <= alpha`` is at most ``alpha``, and map and decision never disagree.

Notation: ``n`` calibration scores, ``alpha`` the false-positive rate.

Differs from the reference in: (1) the paper does not choose a threshold.

Reference: Vovk, Gammerman, Shafer. "Algorithmic Learning in a Random World". 2005;
Vovk. "Cross-conformal predictors". Annals of Mathematics and AI 74, 2015.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

T = TypeVar("T")
Scores = Float[np.ndarray, " n"] | Float[Array, " n"]


class Decision(NamedTuple):
    """What is decided about an image.

    Attributes:
      p_value: Share of normal images at least as anomalous, conservatively counted;
        None without calibration scores or where the score is NaN.
      threshold: Score above which an image is anomalous; None where there are too few
        calibration scores for the rate asked for.
      is_anomalous: None where there is no threshold, or the score is NaN.
    """

    p_value: float | None
    threshold: float | None
    is_anomalous: bool | None


class TooFewImages(UserWarning):
    """There are too few calibration images for the false-positive rate asked for."""


def p_values(calibration: Scores, scores: Num[np.ndarray, "*s"]) -> np.ndarray:
    """Returns the conformal p-value of every score.

    Args:
      calibration: Scores of normal images that were not learnt from; at least one.
      scores: New scores, of any shape.

    Returns:
      ``(1 + #{calibration >= score}) / (n + 1)``, float64, NaN where a score is.

    Raises:
      ValueError: If there is no calibration score, or one is NaN.

    Example:
      >>> p_values(np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 9.0]))
      array([1.  , 0.75, 0.25])
    """
    ranked = _ranked(calibration)
    values = np.asarray(scores, np.float64)
    below = np.searchsorted(ranked, values, side="left")
    p = (1 + len(ranked) - below) / (len(ranked) + 1)
    return np.where(np.isnan(values), np.nan, p)


def threshold(calibration: Scores, rate: float) -> float | None:
    """Returns the score above which an image is anomalous.

    Args:
      calibration: Scores of normal images that were not learnt from.
      rate: False-positive rate, in (0, 1).

    Returns:
      The ``floor(rate (n + 1))``-th largest calibration score: ``score > threshold``
      if and only if ``p <= rate``. None, with a warning, where ``n < 1 / rate - 1``.

    Raises:
      ValueError: If the rate is out of range, or a score is NaN.

    Example:
      >>> threshold(np.arange(19.0), 0.05)
      18.0
    """
    needed = num_needed(rate)
    ranked = _ranked(calibration) if len(calibration) else np.zeros(0)
    count = len(ranked)
    if count < needed:
        warnings.warn(
            f"a false-positive rate of {rate:g} needs {needed} normal images that were "
            f"not learnt from, there are {count}: scores, but no decisions",
            TooFewImages,
            stacklevel=2,
        )
        return None
    return float(ranked[count - _rank(rate, count)])


def num_needed(rate: float) -> int:
    """Returns how many calibration scores a false-positive rate needs.

    Args:
      rate: In (0, 1).

    Raises:
      ValueError: If the rate is out of range.

    Example:
      >>> num_needed(0.01)
      99
    """
    if not 0 < rate < 1:
        raise ValueError(f"the false-positive rate must be in (0, 1), not {rate}")
    count = max(1, math.ceil(1 / rate) - 2)
    while _rank(rate, count) < 1:
        count += 1
    return count


def unlike(scores: Scores) -> Int[np.ndarray, " u"]:
    """Finds images that are unlike the others, such as defective ones among good ones.

    They are beyond the outer fence of the finite scores, the upper quartile and three
    times the distance of the quartiles; of a normal distribution, one value in 850,000
    is.

    Args:
      scores: Scores of images, each under what the others alone give; NaN says nothing.

    Returns:
      Their numbers, the largest score first.

    References:
      Tukey. "Exploratory Data Analysis". Addison-Wesley, 1977, section 2D.

    Example:
      >>> unlike(np.array([1.0, 9.0, 1.5, 2.0, 1.2, np.nan]))
      array([1])
    """
    values = np.asarray(scores, np.float64)
    known = values[np.isfinite(values)]
    if len(known) < 4:
        return np.zeros(0, int)
    low, high = np.quantile(known, [0.25, 0.75])
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    return order[values[order] > high + 3 * (high - low)]


def _rank(rate: float, count: int) -> int:
    """Returns ``floor(rate (n + 1))``, safe against a rate such as 0.29's rounding."""
    return math.floor(rate * (count + 1) * (1 + 1e-12))


def _ranked(calibration: Scores) -> np.ndarray:
    ranked = np.sort(np.asarray(calibration, np.float64))
    if ranked.size == 0:
        raise ValueError("there is no calibration score")
    if np.isnan(ranked).any():
        raise ValueError("a calibration score is NaN")
    return ranked


def decide(calibration: Scores | None, score: float, *, rate: float = 0.05) -> Decision:
    """Decides about one image.

    Args:
      calibration: Scores of normal images that were not learnt from; None if there
        are none.
      score: The image's score.
      rate: False-positive rate, in (0, 1).

    Returns:
      p-value, threshold and decision. Nothing is warned of: see `threshold`.

    Raises:
      ValueError: If the rate is out of range, or a calibration score is NaN.
    """
    needed = num_needed(rate)
    if calibration is None or len(calibration) == 0:
        return Decision(None, None, None)
    limit = threshold(calibration, rate) if len(calibration) >= needed else None
    if math.isnan(score):
        return Decision(None, limit, None)
    p = float(p_values(calibration, np.asarray(score)))
    return Decision(p, limit, None if limit is None else bool(score > limit))


def p_value_map(
    calibration: Scores,
    log_map: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """Returns the p-value of every cell of a log-map.

    Args:
      calibration: Scores of normal images that were not learnt from.
      log_map: Sum of the layers' log-probabilities of an image.
      mask: Cells that count.

    Returns:
      p-values, 1 outside the mask. For the quantile ``q`` of the scores: the chance
      that a normal image has more than a share ``q`` of its cells, to within one, at
      ``p <= alpha`` is at most ``alpha``.

    Raises:
      ValueError: If there is no calibration score, or one is NaN.
    """
    p = p_values(calibration, -np.asarray(log_map, np.float64))
    return np.where(np.asarray(mask), p, 1.0)


def hold_out(
    key: Key[Array, ""], count: int, *, num_held: int
) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, " c"]]:
    """Splits images into those to learn from and those to calibrate with.

    Args:
      key: Randomness.
      count: Number of images.
      num_held: Number to calibrate with, from 1 to ``count - 1``.

    Returns:
      Two rising lists of indices.

    Raises:
      ValueError: If the number is out of range.
    """
    if not 1 <= num_held < count:
        raise ValueError(f"of {count} images, 1 to {count - 1} can be held out")
    order = np.asarray(jax.random.permutation(key, count))
    return np.sort(order[num_held:]), np.sort(order[:num_held])


def folds(
    key: Key[Array, ""], count: int, *, num_folds: int
) -> list[Int[np.ndarray, " _c"]]:
    """Deals images out to folds of nearly equal size.

    Args:
      key: Randomness.
      count: Number of images.
      num_folds: From 2 to ``count``, which leaves out one image at a time.

    Returns:
      Rising lists of indices; every image is in one of them.

    Raises:
      ValueError: If the number is out of range.
    """
    if not 2 <= num_folds <= count:
        raise ValueError(f"{count} images make 2 to {count} folds, not {num_folds}")
    order = np.asarray(jax.random.permutation(key, count))
    return [np.sort(part) for part in np.array_split(order, num_folds)]


def scores(
    key: Key[Array, ""],
    images: Sequence[Any],
    fit: Callable[[Sequence[Any]], T],
    score: Callable[[T, Any], float],
    *,
    num_held: int | None = None,
    num_folds: int = 5,
) -> tuple[T, Float[np.ndarray, " c"]]:
    """Fits a detector, and scores normal images that were not learnt from.

    With a held-out split (``num_held``) the detector learns from the rest only, and the
    guarantee of the module holds: a normal image is called anomalous with a probability
    of at most the rate, over the draw of calibration and new image.

    With folds every image is scored by a detector that learnt from the other folds, and
    new images by one that learnt from all. This uses every image twice and costs
    ``num_folds`` more fits. The guarantee then needs the assumption that detectors
    fitted with and without a fold score alike; where more images make normal scores
    lower it errs on the side of fewer false positives. It is meant for few images.

    Args:
      key: Randomness of the split.
      images: Normal images, in any form that ``fit`` and ``score`` understand; paths
        keep memory small.
      fit: Makes a detector from some of the images, given as a list.
      score: Scores one image by a detector.
      num_held: Number of images to hold out; folds are used if it is None.
      num_folds: Number of folds.

    Returns:
      The detector to use, and the calibration scores in the order of their images.

    Raises:
      ValueError: If there are too few images for the split.
    """
    count = len(images)
    if num_held is not None:
        learn, held = hold_out(key, count, num_held=num_held)
        fitted = fit([images[i] for i in learn])
        return fitted, np.array([score(fitted, images[i]) for i in held], np.float64)
    parts = folds(key, count, num_folds=num_folds)
    found = np.zeros(count)
    for part in parts:
        others = np.setdiff1d(np.arange(count), part)
        fitted = fit([images[i] for i in others.tolist()])
        found[part] = [score(fitted, images[i]) for i in part.tolist()]
    return fit(list(images)), found
