"""Exact nearest component at a fraction of the work, by matrix products.

The dense way to ``argmin_k D_k(u)`` (paper, Eq. 1) costs ``N K d^2``. Most of it proves
the obvious: that a far component is far. A marginal in the leading coordinates proves
the same for less, and the marginals of all components are one matrix product
(`bounds`). What they leave open gets its exact cost, grouped by component (`exact`),
until nothing is open (`search`). The labels are those of the dense argmin, and the
least bound of a competitor certifies each of them (`nearest_info`). What it certifies
holds on while components stay as they are, so a fit looks only at those that changed
(`tracking`).

One program does all that, chunk by chunk of samples, eagerly, under ``jit``, ``vmap``
and ``shard_map``, on CPU, GPU and TPU. `gladjax.devices` holds the sizes of the pieces.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``r`` leading coordinates.

Differs from the reference in: nothing that shows; the paper computes all the costs.
"""

from gladjax.assign.bounds import Bounds as Bounds
from gladjax.assign.bounds import Coordinates as Coordinates
from gladjax.assign.bounds import coordinates as coordinates
from gladjax.assign.bounds import first as first
from gladjax.assign.bounds import lower as lower
from gladjax.assign.bounds import lower_of_pairs as lower_of_pairs
from gladjax.assign.bounds import monomials as monomials
from gladjax.assign.bounds import prepare as prepare
from gladjax.assign.exact import distances_of_pairs as distances_of_pairs
from gladjax.assign.exact import slopes as slopes
from gladjax.assign.nearest import AssignInfo as AssignInfo
from gladjax.assign.nearest import assigned as assigned
from gladjax.assign.nearest import by_images as by_images
from gladjax.assign.nearest import constants as constants
from gladjax.assign.nearest import nearest as nearest
from gladjax.assign.nearest import nearest_info as nearest_info
from gladjax.assign.nearest import prepared as prepared
from gladjax.assign.search import GROUP as GROUP
from gladjax.assign.search import Found as Found
from gladjax.assign.search import listed as listed
from gladjax.assign.search import search as search
from gladjax.assign.tracking import WIDTH as WIDTH
from gladjax.assign.tracking import Known as Known
from gladjax.assign.tracking import updated as updated

__all__ = [
    "GROUP",
    "WIDTH",
    "AssignInfo",
    "Bounds",
    "Coordinates",
    "Found",
    "Known",
    "assigned",
    "by_images",
    "constants",
    "coordinates",
    "distances_of_pairs",
    "first",
    "listed",
    "lower",
    "lower_of_pairs",
    "monomials",
    "nearest",
    "nearest_info",
    "prepare",
    "prepared",
    "search",
    "slopes",
    "updated",
]
