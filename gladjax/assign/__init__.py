"""Exact nearest component at a fraction of the work.

The dense way to ``argmin_k D_k(u)`` (paper, Eq. 1) costs ``N K d^2``. Most of it proves
the obvious: that a far component is far. A marginal of a Gaussian proves the same for
less. For any ``P (d, r)`` of full column rank

    (P'e)' (P' Sigma P)^-1 (P'e)  <=  e' Sigma^-1 e

so the leading ``r`` coordinates of all samples, rotated once, bound every distance from
below; a component whose bound plus ``log|Sigma_k| - 2 log pi_k`` exceeds the cost of
the best so far cannot win. With the marginal covariances factored by Cholesky the
bounds of 1, 2, ..., r coordinates are partial sums of one another, and a component is
abandoned as soon as it can be. What survives gets its full cost, grouped by component
(`gladjax.routing`). The labels are those of the dense argmin, and the least bound at
which a competitor was abandoned certifies it, sample by sample.

The coordinates are the principal axes of the samples. Any choice is correct; this one
prunes more than linear discriminants do, because components that differ in volume are
told apart by energy, not by the distance of their means.

Where no guess is given, the full costs of the components with the `GUESSES` nearest
means make the first threshold.

Bounds are computed in the precision of the mixture and lowered by more than their
rounding, full costs in the original coordinates, so rounding never prunes a winner.

`nearest` runs all that in compiled kernels on the host, sample by sample. On an
accelerator and inside of a trace `pruned` does it in JAX, with static shapes: bounds by
matrix products, then lists of pairs, until none is left.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``r`` leading coordinates,
``r1`` of them evaluated for all components.

Differs from the reference in: nothing that shows; the paper computes all the costs.
"""

from gladjax.assign.bounds import RAISE as RAISE
from gladjax.assign.bounds import SLACK as SLACK
from gladjax.assign.bounds import Bounds as Bounds
from gladjax.assign.bounds import bounds as bounds
from gladjax.assign.bounds import principal_axes as principal_axes
from gladjax.assign.bounds import project as project
from gladjax.assign.bounds import restrict as restrict
from gladjax.assign.bounds import tune as tune
from gladjax.assign.candidates import CHUNK as CHUNK
from gladjax.assign.candidates import candidates as candidates
from gladjax.assign.candidates import pair_costs as pair_costs
from gladjax.assign.dense import dense as dense
from gladjax.assign.dense import distances as distances
from gladjax.assign.info import AssignInfo as AssignInfo
from gladjax.assign.marginals import Marginals as Marginals
from gladjax.assign.marginals import axes as axes
from gladjax.assign.marginals import marginals as marginals
from gladjax.assign.nearest import BACKENDS as BACKENDS
from gladjax.assign.nearest import nearest as nearest
from gladjax.assign.nearest import nearest_info as nearest_info
from gladjax.assign.nearest import traced as traced
from gladjax.assign.nearest import uses_jax as uses_jax
from gladjax.assign.plan import Plan as Plan
from gladjax.assign.plan import plan as plan
from gladjax.assign.pruned import pruned as pruned
from gladjax.assign.pruned import pruned_info as pruned_info
from gladjax.assign.routed import distances_of_pairs as distances_of_pairs
from gladjax.assign.tracker import Tracker as Tracker

__all__ = [
    "BACKENDS",
    "CHUNK",
    "RAISE",
    "SLACK",
    "AssignInfo",
    "Bounds",
    "Marginals",
    "Plan",
    "Tracker",
    "axes",
    "bounds",
    "candidates",
    "dense",
    "distances",
    "distances_of_pairs",
    "marginals",
    "nearest",
    "nearest_info",
    "pair_costs",
    "plan",
    "principal_axes",
    "project",
    "pruned",
    "pruned_info",
    "restrict",
    "traced",
    "tune",
    "uses_jax",
]
