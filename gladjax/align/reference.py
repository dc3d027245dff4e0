"""The reference of a category, and whether to align at all.

Any normal image can be the reference, but an unusual one makes every residual large.
The chosen one has the smallest median residual when a sample of the others is
registered on it. Whether alignment helps at all is asked of the training images alone:
registration must succeed, must make the images more alike than they were, and must
leave most of the reference inside them. For textures it does not.

Notation: residuals are mean absolute differences of grey levels, before and after.

Differs from the reference in: (1) the paper chooses its references by hand and aligns
the objects of its data set by name; both are decided from the images here.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD: A Global-to-Local Anomaly Detector".
WACV 2023, section 4.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Key, Num

from gladjax.align.plan import DEFAULTS, AlignInfo, Options
from gladjax.align.registration import register

__all__ = ["Decision", "choose_reference", "decide"]

AnyArray = Array | np.ndarray

_SAME = 1e-3  # Grey levels below which an image is the reference itself.


class Decision(NamedTuple):
    """Whether to align, and why.

    Attributes:
      align: The choice.
      reasons: Sentences for the report, each with its number.
      ratio: Median of residual after over residual before.
      success: Share of registrations that succeeded.
      overlap: Median share of the reference that falls inside an image.
    """

    align: bool
    reasons: tuple[str, ...]
    ratio: float
    success: float
    overlap: float


def _sample(key: Key[Array, ""], total: int, number: int) -> np.ndarray:
    """Returns distinct indices, sorted."""
    picked = jax.random.permutation(key, total)[: min(number, total)]
    return np.sort(np.asarray(picked))


def choose_reference(
    key: Key[Array, ""],
    images: Num[AnyArray, "n h w *c"],
    *,
    num_candidates: int = 8,
    num_others: int = 16,
    motion: str = "euclidean",
    coarse: bool = False,
    options: Options = DEFAULTS,
) -> int:
    """Returns the index of the image that suits best as a reference.

    Args:
      key: Randomness of the samples.
      images: Normal images of one size, 0 to 255.
      num_candidates: How many images are tried as a reference.
      num_others: How many are registered on each.
      motion: As for `register`.
      coarse: As for `register`.
      options: As for `register`.

    Returns:
      The candidate with the smallest median residual; a failed registration counts
      with the residual of the identity.

    Raises:
      ValueError: If there are no images.
    """
    if images.shape[0] == 0:
        raise ValueError("images is empty: there is no reference to choose")
    by_candidate, by_other = jax.random.split(key)
    candidates = _sample(by_candidate, images.shape[0], num_candidates)
    others = images[_sample(by_other, images.shape[0], num_others + 1)]
    find = functools.partial(register, motion=motion, coarse=coarse, options=options)
    medians = []
    for candidate in candidates:
        info = _each(functools.partial(find, images[candidate]), others)
        itself = np.flatnonzero(info.residual_before < _SAME)
        medians.append(np.median(np.delete(info.residual, itself[:1])))
    return int(candidates[int(np.argmin(medians))]) if len(medians) > 1 else 0


def _each(
    find: Callable[[AnyArray], tuple[Array, AlignInfo]], images: AnyArray
) -> AlignInfo:
    """Returns the reports of images registered one by one.

    So the program is the one that aligns an image later, which need not be compiled
    once more for the number of images.
    """
    return jax.tree.map(lambda *a: np.stack(a), *[find(one)[1] for one in images])


def decide(
    reference: Num[AnyArray, "h w *c"],
    images: Num[AnyArray, "n h w *c"],
    *,
    motion: str = "euclidean",
    coarse: bool = False,
    max_ratio: float = 0.8,
    min_success: float = 0.8,
    min_overlap: float = 0.7,
    options: Options = DEFAULTS,
) -> Decision:
    """Returns whether alignment helps, from training images alone.

    Args:
      reference: The reference.
      images: A sample of the training images, 0 to 255.
      motion: As for `register`.
      coarse: As for `register`.
      max_ratio: Largest median of residual after over before that is worth it.
      min_success: Least share of registrations that must succeed.
      min_overlap: Least median overlap.
      options: As for `register`.

    Returns:
      The choice with its reasons. Images that equal the reference are left out; where
      nothing moves there is nothing to gain, and the choice is not to align.

    Raises:
      ValueError: If there are no images.
    """
    if images.shape[0] == 0:
        raise ValueError("images is empty: there is nothing to decide from")
    find = functools.partial(register, motion=motion, coarse=coarse, options=options)
    info = _each(functools.partial(find, reference), images)
    return judge_sample(
        info, max_ratio=max_ratio, min_success=min_success, min_overlap=min_overlap
    )


def judge_sample(
    info: AlignInfo,
    *,
    max_ratio: float = 0.8,
    min_success: float = 0.8,
    min_overlap: float = 0.7,
) -> Decision:
    """Returns what `decide` does, from registrations that are already done.

    Args:
      info: Report of a batch of training images.
      max_ratio: As for `decide`.
      min_success: As for `decide`.
      min_overlap: As for `decide`.
    """
    before = np.asarray(info.residual_before)
    other = before > _SAME
    ratios = np.asarray(info.residual)[other] / before[other]
    ratio = float(np.median(ratios)) if ratios.size else 1.0
    success = float(np.mean(np.asarray(info.success)))
    overlap = float(np.median(np.asarray(info.overlap)))
    tests = (
        (
            ratio <= max_ratio,
            f"the residual after alignment is {ratio:.2f} of that before "
            f"(at most {max_ratio:.2f} is worth it)",
        ),
        (
            success >= min_success,
            f"{success:.0%} of the registrations succeed (at least {min_success:.0%})",
        ),
        (
            overlap >= min_overlap,
            f"{overlap:.0%} of the reference stay inside (at least {min_overlap:.0%})",
        ),
    )
    align = all(ok for ok, _ in tests)
    reasons = tuple(f"{'for' if ok else 'against'}: {text}" for ok, text in tests)
    return Decision(align, reasons, ratio, success, overlap)
