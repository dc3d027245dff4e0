"""Local weights: where in the image each component of the mixture is at home.

Means and covariances stay as they are; every position ``x`` gets weights of its own
(paper, Section 3.2). From the global weights on, repeat:

    z_m(x)   = argmin_k (u_m(x) - mu_k)' Sigma_k^-1 (u_m(x) - mu_k)
                        + log|Sigma_k| - 2 log pi_k(x)                      (Eq. 10)
    pi_k(x)  = share of label k among the samples of all images
               at positions within distance r of x                       (Eqs. 11, 12)

The weights are counts, and mostly 0: about a tenth of the components is active at a
position. They are kept as a sparse list per position.

Every step is one exact assignment (`gladjax.assign`) with weights that depend on the
position in place of the global ones. Large maps are looked at in bands of rows, for
which the counts of the rows around are enough: features may be on disk, and no array
of all positions and components is made.

Notation: ``m`` images, ``h w`` positions, ``k`` components, ``r`` the radius.

Differs from the reference in
  1. The sign of ``2 log pi_k(x)`` (R1).
  2. The disc is cut at the border of the map and divided by what is left of it, and by
     the valid samples only. A position that no valid sample reaches keeps the global
     weights.
  3. Optionally, the counts are shrunk toward the global weights by a Dirichlet prior:
     ``pi_k(x) = (count_k(x) + a pi_k) / (count(x) + a)``. Then no weight is 0.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.2.
"""

from gladjax.weights.bands import around as around
from gladjax.weights.bands import band as band
from gladjax.weights.bands import filled as filled
from gladjax.weights.fitting import WeightsInfo as WeightsInfo
from gladjax.weights.fitting import fit as fit
from gladjax.weights.fitting import fit_info as fit_info
from gladjax.weights.fitting import weigh as weigh
from gladjax.weights.local import LabelCounts as LabelCounts
from gladjax.weights.local import LocalWeights as LocalWeights
from gladjax.weights.local import active as active
from gladjax.weights.local import counts as counts
from gladjax.weights.local import cut as cut
from gladjax.weights.local import dense as dense
from gladjax.weights.local import disc as disc
from gladjax.weights.local import information as information
from gladjax.weights.local import label_counts as label_counts
from gladjax.weights.local import listed as listed
from gladjax.weights.local import stacked as stacked
from gladjax.weights.local import uniform as uniform

__all__ = [
    "LabelCounts",
    "LocalWeights",
    "WeightsInfo",
    "active",
    "around",
    "band",
    "counts",
    "cut",
    "dense",
    "disc",
    "filled",
    "fit",
    "fit_info",
    "information",
    "label_counts",
    "listed",
    "stacked",
    "uniform",
    "weigh",
]
