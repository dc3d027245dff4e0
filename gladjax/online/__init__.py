"""Online K-MLE: normal samples added later, without the old ones.

A component of K-MLE depends on its samples through three numbers of theirs: the count,
the mean and the scatter. Whoever keeps these `Statistics` can go on where the fit
ended. `update` takes new samples in mini-batches. Each batch is assigned to the
components of least cost (Eq. 1, exact), and the averages ``s`` of the sufficient
statistics ``(1, u, u u')`` of every component move toward those of the batch,

    s  <-  (1 - gamma_t) s + gamma_t s_batch

then the components are fitted anew from them (Eqs. 2, 3, 9). With the default step,
``gamma_t = m / (T + m)`` for a batch of ``m`` samples after ``T``, every sample ever
seen weighs the same; with a constant one the old is forgotten exponentially. Once all
batches are in, the new samples, which are still at hand, are assigned again and their
statistics, not the old ones', formed anew, until they stay or ``max_passes`` is over.

Old samples cannot move, so a partition that was good for them alone would stay. What a
fit to all samples would do with its components, an update does with new ones: the fifth
of the new samples that is farthest from its components makes, component by component,
up to ``growth k`` of its own, which then compete for the new samples like any other.

Scatters are kept as roots, ``B'B = n S``, of at most ``min(n - 1, d)`` rows, in one
flat array as the rows of a `GaussianMixture` are: no ``d x d`` matrix where a component
has fewer than ``d`` samples. A root of ``n`` samples without their mean is the
``n - 1`` differences of each from the mean of those before it, scaled; roots of two
sets are stacked, with one row for the difference of the means.

Notation: ``n`` samples, ``k`` components, ``d`` features, ``r`` rows in the flat array,
``m`` samples of batch ``t``, ``gamma`` the step, ``T`` the samples before it.

Differs from the reference in
  1. Mini-batches in place of single samples, the passes and the new components that
     follow.
  2. A step other than the default gives samples unequal weights. The largest is 1, and
     ``n_k`` in the shrinkage (Eq. 9) is the sum of the weights.
  3. The old samples keep their components: they are not there to be asked.
  4. Components whose count falls below ``min_count`` are dropped (R3), but keep their
     place, so that indices into the mixture stay valid.

Reference: Saint-Jean, Nielsen, "Online k-MLE for mixture modeling with exponential
families", GSI 2015.
"""

from gladjax.online.sufficient import Statistics as Statistics
from gladjax.online.sufficient import estimate as estimate
from gladjax.online.sufficient import merge as merge
from gladjax.online.sufficient import statistics as statistics
from gladjax.online.updating import Schedule as Schedule
from gladjax.online.updating import UpdateInfo as UpdateInfo
from gladjax.online.updating import update as update

__all__ = [
    "Schedule",
    "Statistics",
    "UpdateInfo",
    "estimate",
    "merge",
    "statistics",
    "update",
]
