"""What a detector is, and what fitting and scoring report."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from gladjax import align, neighbourhoods, staged
from gladjax.align import transform
from gladjax.backbone import Backbone
from gladjax.detector.augment import COPIED, KINDS
from gladjax.kmle import KMLEInfo
from gladjax.mixture import AnyArray, GaussianMixture
from gladjax.online import Statistics
from gladjax.pytree import pytree, static
from gladjax.scoring import Prepared
from gladjax.weights import LabelCounts, LocalWeights, WeightsInfo

Image = Num[AnyArray, "_h _w 3"]
if TYPE_CHECKING:
    Images = Sequence[Image]
else:
    Images = Sequence  # A check at run time would read one of a lazy sequence.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a detector is fitted with; plain numbers, kept in its file.

    Attributes:
      num_components: Components to start from, per layer; 0 for one for every 256
        cells, 25 to 200 (`gladjax.staged`).
      max_steps: Steps of K-MLE and of the local weights, at most.
      tolerance: Relative change of the log-likelihood that ends both. The default is
        below what a held-out image can tell.
      min_count: Components of fewer samples are dropped.
      max_samples: Samples per layer that the mixture is fitted to; 0 for all. Where the
        number of components is not given, the last step takes four times as many
        (`gladjax.staged`). Local weights are always of all.
      local: Whether weights are local; without, the global ones hold everywhere.
      min_kept: Share of what local weights tell of the images learnt from that must
        hold for images left out; below it the weights are global. Looked at where up to
        100 images are left out in turn; 0, the paper's, for never.
      radius: Radius of the window of the local weights, in cells.
      prior: Strength of a Dirichlet prior of the local weights around the global ones,
        in samples. It may help where images are few and places mean little, it makes
        parts out of place less surprising, and scoring takes as long as with global
        weights. 0, the paper's, for none.
      quantile: Quantile of the log-map that is the score.
      sigma: Smoothing of the heat map, in pixels at the backbone's image size.
      neighbourhood: Side, in cells, of the windows over whose means the coarsest layer
        is looked at too (`gladjax.neighbourhoods`), odd; 1, the paper's, for none. Not
        where the backbone already gives derived layers.
      finest: Whether the finest of three or more layers is looked at, as in the paper.
        It costs a third of the time; without it textures gain, and heat maps lose
        little (experiments, `neighbourhoods`). Not asked where the backbone already
        gives derived layers.
      margin: What does not count where no mask is given, as a share of each side. The
        paper's is 1/16, a quarter of the image in which no defect is found; measured
        (experiments, `neighbourhoods`), the whole image does as well.
      motion: Motion by which images are aligned; empty for none.
      coarse: Whether alignment begins with a search over all angles.
      augment: Which copies of the images are learnt from as well, see
        `gladjax.detector.augment`: none; those of ``flip``, left to right; those of
        ``dihedral``, turned by quarters too; or as the images ask, ``auto``: those of
        ``dihedral`` where local weights do not hold (`min_kept`) and nine of ten images
        left out are likelier for it in every layer. Only where images are not aligned.
      estimator: How the mixture is fitted, ``kmle`` or ``em``.
      keep_statistics: Whether to keep what `update` needs, about as much again as the
        mixtures; only with ``kmle``.
      tile_rows: Rows of tiles in which images are looked at (`gladjax.detector.tiles`).
      tile_columns: Columns of tiles.
      tile_overlap: Pixels around a tile that are looked at with it.
    """

    num_components: int = 0
    max_steps: int = 100
    tolerance: float = 1e-4
    min_count: int = 2
    max_samples: int = staged.SAMPLES
    local: bool = True
    min_kept: float = 0.5
    radius: float = 1.0
    prior: float = 0.0
    quantile: float = 0.005
    sigma: float = 4.0
    neighbourhood: int = 3
    finest: bool = False
    margin: float = 0.0
    motion: str = ""
    coarse: bool = False
    augment: str = "auto"
    estimator: str = "kmle"
    keep_statistics: bool = False
    tile_rows: int = 1
    tile_columns: int = 1
    tile_overlap: int = 128

    @classmethod
    def paper(cls, **others: Any) -> "Settings":  # noqa: ANN401 - of many types
        """Returns the paper's: 1000 components, all samples, to 1e-6; a margin of 1/16.

        Args:
          others: Further settings.
        """
        theirs = {"num_components": 1000, "max_samples": 0, "tolerance": 1e-6}
        theirs |= {"neighbourhood": 1, "finest": True}
        theirs |= {"margin": 1 / 16, "min_kept": 0.0, "augment": ""}
        return cls(**{**theirs, **others})

    @classmethod
    def quick(cls, **others: Any) -> "Settings":  # noqa: ANN401 - of many types
        """Returns those of a first look: 50 components of few samples, few steps.

        Args:
          others: Further settings.
        """
        few = {"num_components": 50, "max_samples": 8192, "max_steps": 10}
        few |= {"augment": ""}
        return cls(**{**few, **others})


RANGES = {
    "num_components": (0, 1 << 24),
    "max_steps": (0, 1 << 24),
    "tolerance": (0.0, 1e6),
    "min_count": (1, 1 << 24),
    "max_samples": (0, 1 << 48),
    "min_kept": (0.0, 1.0),
    "radius": (0.0, 100.0),
    "prior": (0.0, 1e9),
    "quantile": (0.0, 1.0),
    "sigma": (0.0, 1000.0),
    "neighbourhood": (1, neighbourhoods.MAX_SIDE),
    "margin": (0.0, 0.49),
    "tile_rows": (1, 256),
    "tile_columns": (1, 256),
    "tile_overlap": (0, 4096),
}
"""Least and largest value of every setting that is a number."""


def check(given: Mapping[str, Any]) -> None:
    """Refuses settings that cannot be, or that would take for ever.

    Args:
      given: Settings by name, of the right types; those left out are the default.

    Raises:
      ValueError: If one is out of its range; the message names both.
    """
    for name in RANGES.keys() & given.keys():
        low, high = RANGES[name]
        if not low <= given[name] <= high:
            raise ValueError(
                f"{name} must be {low:g} to {high:g}, not {given[name]!r:.40}"
            )
    if given.get("neighbourhood", 1) % 2 == 0:
        raise ValueError(f"neighbourhood must be odd, not {given['neighbourhood']}")
    estimator, motion = given.get("estimator", "kmle"), given.get("motion", "")
    if estimator not in ("kmle", "em"):
        raise ValueError(f"estimator must be kmle or em, not {estimator!r:.40}")
    if given.get("keep_statistics") and estimator != "kmle":
        raise ValueError("keep_statistics needs the estimator kmle")
    if motion and motion not in transform.MOTIONS:
        known = ", ".join(transform.MOTIONS)
        raise ValueError(f"motion must be one of {known}, not {motion!r:.40}")
    if (augmented := given.get("augment", "auto")) not in KINDS:
        known = ", ".join(filter(None, KINDS))
        raise ValueError(f"augment must be one of {known}, not {augmented!r:.40}")
    if augmented in COPIED and motion:
        raise ValueError("augment is for images that are not aligned: leave one out")


@pytree
class Kept:
    """What must be known of the images learnt from to learn from more of them.

    Attributes:
      statistics: Sufficient statistics of the components.
      counts: Labels at every position; None where weights are not local.
    """

    statistics: Statistics
    counts: LabelCounts | None


@pytree
class Layer:
    """What a detector knows of one layer.

    Attributes:
      mixture: Its global mixture.
      local_weights: Its local weights.
      prepared: What scoring needs, derived from the other two.
      kept: What `update` needs, where it was asked for.
    """

    mixture: GaussianMixture
    local_weights: LocalWeights
    prepared: Prepared
    kept: Kept | None = None


@pytree
class Detector:
    """A fitted detector.

    Attributes:
      backbone: The network.
      layers: What is known of each of its layers.
      mask: Pixels of the reference's frame that count, ``(H, W)``.
      reference: The image that others are aligned with, ``(H, W, 3)``, 0 to 255; None
        without alignment.
      calibration: Scores of normal images that were not learnt from; None if there
        are none.
      settings: How it was fitted.
    """

    backbone: Backbone
    layers: dict[str, Layer]
    mask: Bool[AnyArray, "h w"]
    reference: Float[AnyArray, "h w 3"] | None
    calibration: Float[AnyArray, " c"] | None
    settings: Settings = static()


class FitInfo(NamedTuple):
    """What happened in a fit.

    Attributes:
      mixtures: Report of K-MLE or EM, per layer.
      weights: Report of the local weights, per layer; empty without them.
      alignment: Report of the registrations; None without alignment.
      transforms: Motions of the training images, ``(m, 3, 3)``; None without.
      kept: Share of what local weights tell that holds for images left out; None where
        it was not worked out (`Settings.min_kept`).
      likelier: Share of the images left out that are likelier where copies are learnt
        from too, in the layer of fewest, of those that were looked at; None where that
        was not tried (`Settings.augment`).
      left_out: Score of every image under what the others alone would give
        (`gladjax.detector.left_out`), NaN for the image that others are aligned with
        and where nothing counts; None where it was not asked for.
      seconds: Wall time per stage; ``copies`` is a second fit, as far as it went,
        whose stages are not among the others.
    """

    mixtures: dict[str, KMLEInfo]
    weights: dict[str, WeightsInfo]
    alignment: align.AlignInfo | None
    transforms: Float[np.ndarray, "m 3 3"] | None
    kept: float | None
    likelier: float | None
    left_out: Float[np.ndarray, " m"] | None
    seconds: dict[str, float]


class Aligned(NamedTuple):
    """An image in the frame of the detector.

    Attributes:
      image: Pixels, ``(H, W, 3)``, 0 to 255.
      valid: Pixels that came from inside the image.
      transform: Motion from the reference's pixels to the image's, both of size
        ``H W``.
      info: Report of the registration; None without alignment.
    """

    image: Float[np.ndarray, "h w 3"]
    valid: Bool[np.ndarray, "h w"]
    transform: Float[np.ndarray, "3 3"]
    info: align.AlignInfo | None


class Scored(NamedTuple):
    """What a detector says of an image.

    Attributes:
      score: Minus the quantile of the log-map; higher is more anomalous.
      log_map: Sum of the layers' log-probabilities, in the reference's frame.
      mask: Cells of the log-map that counted.
      heat_map: Smoothed map in the image's frame and size, higher is more anomalous.
      alignment: The motion and its report.
    """

    score: float
    log_map: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    heat_map: Float[np.ndarray, "_h _w"]
    alignment: Aligned
