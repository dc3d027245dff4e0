"""EM: the same mixture by soft assignment, the alternative of the paper's ablation.

One step weighs every sample by how likely each component is to have made it, and fits
every component to all samples so weighted:

    r_ik    = pi_k N_k(u_i) / sum_j pi_j N_j(u_i)
    n_k     = sum_i r_ik
    pi_k    = n_k / N,   mu_k = sum_i r_ik u_i / n_k,
    Sigma_k = OAS(S_k, n_k),   S_k = sum_i r_ik (u_i - mu_k)(u_i - mu_k)' / n_k

`step` is that, pure, for `jit` and `vmap`: it goes over the components twice, first for
the log-density of every sample, then for the moments of one component at a time, and
holds ``n`` responsibilities at once. `fit` iterates it on the host. There a sample
carries a list of the components that matter to it, found by the bounds of
`gladjax.assign`: responsibilities below ``e^-30`` (in float64 ``e^-50``) of the largest
are 0, which is less than rounding does to the sums even for a million samples. A
component that at most ``d`` samples belong to is fitted from their Gram matrix and
stays structured, as in K-MLE.

Notation: ``n`` samples ``u``, ``k`` components, ``d`` features, ``p`` pairs of a sample
and a component that matters to it, ``t`` iterations.

Differs from the reference in
  1. The count in Eq. 9 is the effective one, ``n_k = sum_i r_ik``; the paper, which
     shrinks the covariances of K-MLE, names none for EM.
  2. Components whose ``n_k`` is below ``min_count`` are dropped, as in K-MLE (R3), and
     the weights divided by the sum of those that stay.
  3. The start is that of K-MLE (R4), and the same relative change of the log-likelihood
     ends both; here it is the mean of ``log sum_k pi_k N_k``. With shrinkage, or when a
     component is dropped, it may fall a little between steps.
  4. A sample belongs to several components, so up to ``k d`` rows are kept, where hard
     assignment needs ``min(n, k d)``; `step` always keeps ``k d``.

Reference: Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM
algorithm", JRSS B 39(1), 1977; Artola et al., "GLAD", WACV 2023, Section 4.
"""

from gladjax.em.expectation import RANGE as RANGE
from gladjax.em.expectation import Responsibilities as Responsibilities
from gladjax.em.expectation import expect as expect
from gladjax.em.iteration import EMState as EMState
from gladjax.em.iteration import Snapshot as Snapshot
from gladjax.em.iteration import fit as fit
from gladjax.em.iteration import init as init
from gladjax.em.maximization import maximize as maximize
from gladjax.em.stepping import step as step

__all__ = [
    "RANGE",
    "EMState",
    "Responsibilities",
    "Snapshot",
    "expect",
    "fit",
    "init",
    "maximize",
    "step",
]
