"""What `gladjax fit` does with the images: a detector, its threshold, odd images."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gladjax import calibrate, detector, images
from gladjax.backbone import Backbone
from gladjax.cli.forecast import Course
from gladjax.cli.options import Progress
from gladjax.cli.saying import say
from gladjax.detector import FOLDS, Detector, FitInfo, Settings, augment

HELD_SHARE = 0.2
SHOWN = 10  # Images that are unlike the others.
LOOKED_AT = 5  # The least likely images, named in any case,
ENOUGH = 20  # where there are so many.


class Work:
    """What a fit needs besides the images; keeps the report of the last one.

    Args:
      key: Randomness of the fit.
      network: The backbone.
      settings: Everything that is a number.
      mask: Pixels that count; None for the default.
      read: From a path to its image.
      reference: The image to align with; None where nothing is aligned.
      course: Told of a second fit, to copies of the images too.
    """

    def __init__(
        self,
        key: jax.Array,
        network: Backbone,
        settings: Settings,
        mask: np.ndarray | None,
        read: Callable[[Path], np.ndarray],
        reference: np.ndarray | None,
        course: Course,
    ) -> None:
        """Keeps what every fit is given."""
        self._key, self._network, self.settings = key, network, settings
        self._mask, self.read, self._reference = mask, read, reference
        self._course = course
        self.info: FitInfo | None = None

    @property
    def left_out(self) -> np.ndarray:
        """Scores of the images of the last fit, each under the others."""
        assert self.info is not None
        assert self.info.left_out is not None
        return self.info.left_out

    def __call__(
        self, paths: Sequence[Path], progress: Progress, *, folds: int = 0
    ) -> Detector:
        """Fits a detector to images.

        Args:
          paths: The images.
          progress: Told of every stage.
          folds: Folds of images that are left out in turn to score them.
        """
        tried = False

        def told(stage: str, done: int, total: int) -> None:
            nonlocal tried
            if stage.startswith(augment.COPIES) and not tried:
                turned = dataclasses.replace(self.settings, augment=augment.TRIED)
                why = "places tell too little, so copies are tried: "
                self._course.begins(turned, len(paths), time.perf_counter(), why=why)
                tried = True
            progress(stage, done, total)

        fitted, self.info = detector.fit_info(
            self._key,
            self._network,
            images.Lazy(paths, read=self.read),
            settings=self.settings,
            mask=self._mask,
            reference=self._reference,
            folds=folds,
            progress=told,
        )
        if tried and fitted.settings.augment != augment.TRIED:
            self._course.breaks_off()
        return fitted


def calibrated(
    key: jax.Array,
    paths: Sequence[Path],
    work: Any,  # noqa: ANN401 - a callable of paths, see `Work`
    how: str,
    rate: float,
    progress: Progress,
) -> tuple[Detector, str]:
    """Fits a detector, and calibrates it on images that it has not learnt from.

    Args:
      key: Randomness of the split.
      paths: Readable images.
      work: Fits a detector to paths, and keeps its report.
      how: ``left-out``, ``split`` or ``none``.
      rate: The false-positive rate; a warning is given where it needs more images.
      progress: Told of every stage.

    Returns:
      The detector with its calibration scores, and how they came about.
    """
    # The reference is learnt from in every fit, so it says nothing of new images.
    always = int(bool(work.settings.motion))
    count = len(paths) - always
    if count < 2 or how == "none":
        calibrate.threshold(np.zeros(0), rate)  # Warns.
        return work(paths, progress), "none"

    def fit_some(some: Sequence[Path]) -> Detector:
        return work([*paths[:always], *some], progress)

    def score_one(fitted: Detector, path: Path) -> float:
        size = fitted.backbone.image_size
        return detector.score(fitted, work.read(path), shape=size).score

    if how == "left-out":
        fitted = work(paths, progress, folds=min(FOLDS, count))
        scores = work.left_out[always:]
    else:
        fitted, scores = calibrate.scores(
            key,
            paths[always:],
            fit_some,
            score_one,
            num_held=max(1, int(HELD_SHARE * count)),
        )
    kept = usable(scores)
    limit = calibrate.threshold(kept, rate)  # Warns.
    if how == "left-out":
        _tell_unlike(paths[always:], scores, limit)
    return dataclasses.replace(fitted, calibration=kept), how


def _tell_unlike(
    paths: Sequence[Path], scores: np.ndarray, limit: float | None
) -> None:
    """Names the images that the model of the others finds far from normal."""
    found = calibrate.unlike(scores)
    if not len(found):
        if len(paths) >= ENOUGH:
            first = np.argsort(-scores, kind="stable")[:LOOKED_AT]  # NaN is last.
            names = ", ".join(paths[i].name for i in first)
            say(f"least likely, in case one is no good one: {names}", err=True)
        return
    say(
        f"{len(found)} of {len(paths)} images are unlike the others. Is it a defect? "
        "What is learnt as good is not found later:",
        err=True,
    )
    for i in found[:SHOWN]:
        say(f"  {paths[i]} (score {scores[i]:.1f})", err=True)
    if len(found) > SHOWN:
        say(f"  and {len(found) - SHOWN} more", err=True)
    if limit is not None and limit >= scores[found].min():
        say(
            "the threshold is the score of such an image: without them it is lower",
            err=True,
        )


def usable(scores: np.ndarray) -> np.ndarray:
    """Returns calibration scores without those of images that show nothing.

    Args:
      scores: Scores; NaN where the mask was empty.
    """
    if np.isnan(scores).any():
        warnings.warn("a calibration image shows nothing inside the mask", stacklevel=2)
        scores = scores[~np.isnan(scores)]
    return scores
