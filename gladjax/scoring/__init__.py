"""From features to a log-probability map, a score and a heat map (paper, Section 3.3).

Per layer, at every position,

    log p_l(x) = logsumexp_k [log pi_k(x) + log N(u(x); mu_k, Sigma_k)]

over the components active at ``x``. The layers are taken as independent: their maps are
brought to the finest grid and added. The score of an image is minus the 0.5 % quantile
of the sum inside the mask.

A logarithm of a sum needs only the terms near the largest one: components more than
`RANGE` above the least cost (20 nats, in float64 40) are left out, with an error below
``k e^-20``. The search of `gladjax.assign` finds those that remain; where few features
make its bounds the costs themselves, they are one matrix product.

Notation: ``h w`` the map, ``d`` features, ``k`` components, ``q`` the quantile.

Differs from the reference in
  1. The grid of the sum, which the paper does not name: the finest (R5).

Reference: Artola et al., "GLAD", WACV 2023, Section 3.3.
"""

from gladjax.scoring.maps import RANGE as RANGE
from gladjax.scoring.maps import Prepared as Prepared
from gladjax.scoring.maps import added as added
from gladjax.scoring.maps import addends as addends
from gladjax.scoring.maps import bounds as bounds
from gladjax.scoring.maps import log_prob_map as log_prob_map
from gladjax.scoring.maps import log_prob_maps as log_prob_maps
from gladjax.scoring.maps import prepare as prepare
from gladjax.scoring.summary import aggregate as aggregate
from gladjax.scoring.summary import enlarge as enlarge
from gladjax.scoring.summary import heat_map as heat_map
from gladjax.scoring.summary import image_score as image_score
from gladjax.scoring.summary import upsample as upsample

__all__ = [
    "RANGE",
    "Prepared",
    "added",
    "addends",
    "aggregate",
    "bounds",
    "enlarge",
    "heat_map",
    "image_score",
    "log_prob_map",
    "log_prob_maps",
    "prepare",
    "upsample",
]
