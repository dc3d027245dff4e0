"""The detector: from photographs of good products to a score of the next one.

`fit` composes the modules of the package, in the order of the paper's Fig. 1: align the
images with a reference, extract features, fit the global mixture of every layer, fit
its local weights. `score` aligns, extracts, and reads off the log-probability map, its
quantile and a heat map. Each stage is a function of its own (`align_image`, `log_maps`,
`summarise`), so that a pipeline can put something else in its place.

`update` teaches a detector that kept its statistics further images (`gladjax.online`).

Notation: ``m`` images; ``H W`` the size at which images enter the backbone (and of the
reference and the mask); ``h w`` the finest map.

Differs from the reference in
  1. What `gladjax.kmle`, `gladjax.weights` and `gladjax.scoring` name.
  2. Where an aligned image does not reach, nothing is learnt and nothing counts.
  3. Optionally the mixture is fitted to a random subsample of a layer's features.
  4. Without a mask the whole image counts; the paper leaves out a margin of 1/16
     (``Settings.margin``, `Settings.paper`).
  5. Where images are few and are left out in turn, weights are local only if what they
     tell holds for images left out (``Settings.min_kept``).
  6. The finest of three layers is left out and the coarsest seen at two scales
     (``Settings.finest``, ``Settings.neighbourhood``).
  7. Mirrored and turned copies are learnt from too, if asked for, or where images are
     few, local weights do not hold, and images left out are likelier for it
     (``Settings.augment``).

Reference: Artola et al., "GLAD", WACV 2023.
"""

from gladjax.detector.fitting import fit as fit
from gladjax.detector.fitting import fit_info as fit_info
from gladjax.detector.inference import align_image as align_image
from gladjax.detector.inference import features as features
from gladjax.detector.inference import log_maps as log_maps
from gladjax.detector.inference import run as run
from gladjax.detector.inference import score as score
from gladjax.detector.inference import score_batch as score_batch
from gladjax.detector.inference import summarise as summarise
from gladjax.detector.layers import fit_mixture as fit_mixture
from gladjax.detector.layers import fit_weights as fit_weights
from gladjax.detector.left_out import FOLDS as FOLDS
from gladjax.detector.model import Aligned as Aligned
from gladjax.detector.model import Detector as Detector
from gladjax.detector.model import FitInfo as FitInfo
from gladjax.detector.model import Image as Image
from gladjax.detector.model import Kept as Kept
from gladjax.detector.model import Layer as Layer
from gladjax.detector.model import Progress as Progress
from gladjax.detector.model import Scored as Scored
from gladjax.detector.model import Settings as Settings
from gladjax.detector.updating import update as update

__all__ = [
    "FOLDS",
    "Aligned",
    "Detector",
    "FitInfo",
    "Image",
    "Kept",
    "Layer",
    "Progress",
    "Scored",
    "Settings",
    "align_image",
    "features",
    "fit",
    "fit_info",
    "fit_mixture",
    "fit_weights",
    "log_maps",
    "run",
    "score",
    "score_batch",
    "summarise",
    "update",
]
