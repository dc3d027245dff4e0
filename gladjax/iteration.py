"""The loop of K-MLE on the host, whatever runs its two steps.

`gladjax.kmle` runs them on one device and `gladjax.sharding` on many. Both alternate
assignment and estimation to the paper's stopping rule, report the same `KMLEInfo`, and
go on from the same `Snapshot`. `gladjax.em` has a loop of its own, with the same rule
and report.

Notation: ``n`` samples, ``d`` features, ``t`` iterations.

Differs from the reference in: nothing, see `gladjax.kmle`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from gladjax.mixture import AnyArray


@runtime_checkable
class Weighted(Protocol):
    """A mixture, wherever its arrays are."""

    @property
    def log_weights(self) -> Any:  # noqa: ANN401 - an array on the host
        """Logarithms of the weights."""

    @property
    def means(self) -> Any:  # noqa: ANN401 - an array anywhere
        """Means."""


M = TypeVar("M", bound=Weighted)
C = TypeVar("C")
Found = tuple[np.ndarray, np.ndarray, tuple[float, float]]


class KMLEInfo(NamedTuple):
    """What a step, or every step of a fit, reports.

    Attributes:
      log_likelihood: Mean over samples of ``max_k log(pi_k N_k)``, in nats, of the
        mixture before the step; of EM, of ``log sum_k pi_k N_k``.
      num_components: Living components after the step.
      labels: Assignment of the (last) step, of EM the most responsible components; -1
        for invalid samples.
      moved: Labels that differ from the previous step's (``fit`` only).
      survivors: Components per sample left by the first bound (``fit`` only).
      evaluated: Full costs per sample (``fit`` only).
      converged: Whether the stopping rule was met (``fit`` only).
    """

    log_likelihood: Float[AnyArray, "*t"]
    num_components: Int[AnyArray, "*t"]
    labels: Int[AnyArray, " n"]
    moved: Int[AnyArray, "*t"] | None = None
    survivors: Float[AnyArray, "*t"] | None = None
    evaluated: Float[AnyArray, "*t"] | None = None
    converged: bool | None = None


class Snapshot(NamedTuple):
    """A fit between two iterations; enough to go on to the same result.

    Attributes:
      iteration: Steps done.
      labels: The assignment, -1 for invalid samples.
      history: Per step: log-likelihood, components, moved, survivors, evaluated.
    """

    iteration: int
    labels: Int[np.ndarray, " n"]
    history: Float[np.ndarray, "t 5"]


def iterate(  # noqa: PLR0913 - what `fit` has read of its options
    estimate: Callable[[np.ndarray, int], tuple[M, C]],
    search: Callable[[M, np.ndarray, C], Found],
    labels: Int[np.ndarray, " n"],
    history: Float[np.ndarray, "t 5"],
    *,
    used: Bool[np.ndarray, " n"],
    num_components: int,
    max_steps: int,
    tolerance: float,
    monitor: Callable[[Snapshot], None] | None = None,
) -> tuple[M, KMLEInfo]:
    """Alternates the two steps until the stopping rule is met: the loop of `fit`.

    Args:
      estimate: The M-step: from labels to a mixture, and the components that changed.
      search: The E-step: from a mixture, labels and what changed to labels, costs, and
        survivors and full costs per sample.
      labels: The first assignment, -1 for invalid samples.
      history: What happened before, of no rows at the start.
      used: Samples that count.
      num_components: Number of components of the first assignment.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      monitor: Called after every step.

    Returns:
      The mixture, dead components included, and what happened; its labels count the
      living components only.
    """
    fitted, changed = estimate(labels, num_components)
    converged = stops(history, tolerance)
    for iteration in range(len(history), max_steps):
        if converged:
            break
        new_labels, cost, counts = search(fitted, labels, changed)
        moved = int(np.sum(new_labels != labels))
        labels = new_labels
        mean_cost = float(np.mean(cost[used], dtype=np.float64))
        fitted, changed = estimate(labels, num_components)
        alive = int(np.isfinite(fitted.log_weights).sum())
        d = fitted.means.shape[1]
        likelihood = -0.5 * (mean_cost + d * math.log(2 * math.pi))
        row = np.array([[likelihood, alive, moved, *counts]])
        history = np.concatenate([history, row])
        converged = stops(history, tolerance)
        if monitor is not None:
            monitor(Snapshot(iteration + 1, labels, history))
    return fitted, reported(fitted, labels, history, converged=converged)


def reported(
    fitted: Weighted,
    labels: Int[np.ndarray, " n"],
    history: Float[np.ndarray, "t 5"],
    *,
    converged: bool,
) -> KMLEInfo:
    """Returns what happened in a fit.

    Args:
      fitted: The mixture, dead components included.
      labels: The last assignment, -1 for invalid samples.
      history: Per step: log-likelihood, components, moved, survivors, evaluated.
      converged: Whether the stopping rule was met.

    Returns:
      The report; its labels count the living components only.
    """
    alive = np.isfinite(fitted.log_weights)
    renamed = np.where(alive, np.cumsum(alive) - 1, -1).astype(np.int32)
    return KMLEInfo(
        log_likelihood=history[:, 0],
        num_components=history[:, 1].astype(np.int32),
        labels=np.where(labels >= 0, renamed[labels], -1).astype(np.int32),
        moved=history[:, 2].astype(np.int64),
        survivors=history[:, 3],
        evaluated=history[:, 4],
        converged=converged,
    )


def resumed(
    resume: Snapshot, num_samples: int, num_components: int
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "t 5"]]:
    """Returns the labels and the history of a snapshot.

    Args:
      resume: The snapshot.
      num_samples: Number of samples ``n`` of the fit.
      num_components: Components that the fit starts with.

    Returns:
      Labels and history.

    Raises:
      ValueError: If the snapshot is of another fit.
    """
    if resume.labels.shape != (num_samples,):
        raise ValueError(
            f"the snapshot has {resume.labels.shape[0]} labels, not {num_samples}: it "
            "is of a fit to other features"
        )
    if num_samples and resume.labels.max() >= num_components:
        raise ValueError("the snapshot is of a fit with more components")
    return resume.labels, resume.history


def stops(history: np.ndarray, tolerance: float) -> bool:
    """Tells whether the last relative change is below the tolerance.

    Args:
      history: Per step, the log-likelihood first.
      tolerance: The relative change.

    Returns:
      Whether to stop.
    """
    if len(history) < 2:
        return False
    before, after = history[-2, 0], history[-1, 0]
    return bool(abs(after - before) <= tolerance * abs(before))


def usable(num_components: int, used: int, min_count: int) -> int:
    """Returns so few components that one of them always has enough samples to live.

    Args:
      num_components: Components that are asked for.
      used: Number of samples that count.
      min_count: Components of fewer samples are dropped.

    Returns:
      At most one component for every two samples, or every ``min_count``.
    """
    return max(1, min(num_components, used // max(2, min_count)))


def check(shape: tuple[int, ...], num_components: int, valid: AnyArray | None) -> None:
    """Refuses shapes and numbers of components that cannot be.

    Args:
      shape: Shape of the samples.
      num_components: Number of components.
      valid: Samples that count, or None.

    Raises:
      ValueError: If they do not fit.
    """
    if len(shape) != 2:
        raise ValueError(f"features must be of shape (n, d), not {shape}")
    if valid is not None and valid.shape != shape[:1]:
        raise ValueError(f"valid must be of shape {shape[:1]}, not {valid.shape}")
    if num_components < 1:
        raise ValueError(f"num_components must be positive, not {num_components}")
    if isinstance(valid, np.ndarray) and not valid.any():
        raise ValueError("no sample is valid")


def check_fit(used: int, max_steps: int, tolerance: float, min_count: int) -> None:
    """Refuses options of a fit that cannot be.

    Args:
      used: Number of samples that count.
      max_steps: Largest number of steps.
      tolerance: Of the stopping rule.
      min_count: Components of fewer samples are dropped.

    Raises:
      ValueError: If they do not fit.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be positive, not {min_count}")
    if used < min_count:
        raise ValueError(f"{used} samples are too few for min_count={min_count}")
    check_rule(max_steps, tolerance)


def check_rule(max_steps: int, tolerance: float) -> None:
    """Refuses a stopping rule that cannot be.

    Args:
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.

    Raises:
      ValueError: If one of them is negative.
    """
    if max_steps < 0:
        raise ValueError(f"max_steps must be 0 or more, not {max_steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
