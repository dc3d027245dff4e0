"""The loop of a fit, whatever runs its steps.

K-MLE on one device, streamed or sharded (`gladjax.kmle`, `gladjax.sharding`), and EM
(`gladjax.em`) hand their step to `iterate`: one stopping rule, one report, one kind of
snapshot to go on from. The host sees a few numbers a step.

Notation: ``n`` samples, ``d`` features, ``t`` iterations.

Differs from the reference in: nothing, see `gladjax.kmle`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from gladjax.mixture import AnyArray, GaussianMixture

S = TypeVar("S")


class KMLEInfo(NamedTuple):
    """What a step, or every step of a fit, reports.

    Attributes:
      log_likelihood: Mean over samples of ``max_k log(pi_k N_k)``, in nats, of the
        mixture before the step; of EM, of ``log sum_k pi_k N_k``.
      num_components: Living components after the step.
      labels: Assignment of the (last) step, of EM the most responsible components; -1
        for invalid samples.
      moved: Labels that differ from the previous step's (``fit`` only).
      survivors: Components per sample left open by the first cost (``fit`` only).
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
      mixture: The mixture, dead components included; None where the labels determine
        it.
    """

    iteration: int
    labels: Int[np.ndarray, " n"]
    history: Float[np.ndarray, "t 5"]
    mixture: GaussianMixture | None = None


class Row(NamedTuple):
    """What a step reports to the loop.

    Attributes:
      cost: Mean cost of the samples before the step; of EM, minus twice the mean
        log-density less its constant.
      alive: Living components after the step.
      moved: Labels that changed.
      survivors: Components per sample left open by the first cost.
      evaluated: Full costs per sample.
    """

    cost: float
    alive: int
    moved: int
    survivors: float
    evaluated: float


def iterate(
    step: Callable[[S], tuple[S, Row]],
    state: S,
    history: Float[np.ndarray, "t 5"],
    *,
    dimension: int,
    max_steps: int,
    tolerance: float,
    monitor: Callable[[Snapshot], None] | None = None,
    snapshot: Callable[[S], dict[str, Any]],
) -> tuple[S, Float[np.ndarray, "_t 5"], bool]:
    """Repeats a step until the stopping rule is met: the loop of every `fit`.

    Args:
      step: From a state to the next one, and what happened.
      state: Mixture and labels to begin with.
      history: What happened before, of no rows at the start.
      dimension: Number of features ``d``.
      max_steps: Largest number of steps.
      tolerance: Relative change of the log-likelihood below which to stop.
      monitor: Called after every step.
      snapshot: Returns the labels, and the mixture if need be, of a state.

    Returns:
      The last state, what happened, and whether the rule was met.
    """
    converged = stops(history, tolerance)
    for iteration in range(len(history), max_steps):
        if converged:
            break
        state, row = step(state)
        likelihood = -0.5 * (row.cost + dimension * math.log(2 * math.pi))
        history = np.concatenate([history, [[likelihood, *row[1:]]]])
        converged = stops(history, tolerance)
        if monitor is not None:
            monitor(Snapshot(iteration + 1, history=history, **snapshot(state)))
    return state, history, converged


def reported(
    log_weights: Float[AnyArray, " k"],
    labels: Int[np.ndarray, " n"],
    history: Float[np.ndarray, "t 5"],
    *,
    converged: bool,
) -> KMLEInfo:
    """Returns what happened in a fit.

    Args:
      log_weights: Of the mixture, dead components included.
      labels: The last assignment, -1 for invalid samples.
      history: Per step: log-likelihood, components, moved, survivors, evaluated.
      converged: Whether the stopping rule was met.

    Returns:
      The report; its labels count the living components only.
    """
    alive = np.isfinite(np.asarray(log_weights))
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


def check_fit(
    num_components: int, used: int, max_steps: int, tolerance: float, min_count: int
) -> None:
    """Refuses options of a fit that cannot be.

    Args:
      num_components: Components that are asked for.
      used: Number of samples that count.
      max_steps: Largest number of steps.
      tolerance: Of the stopping rule.
      min_count: Components of fewer samples are dropped.

    Raises:
      ValueError: If they do not fit.
    """
    if num_components < 1:
        raise ValueError(f"num_components must be positive, not {num_components}")
    if min_count < 1:
        raise ValueError(f"min_count must be positive, not {min_count}")
    if used < min_count:
        raise ValueError(f"{used} samples are too few for min_count={min_count}")
    if max_steps < 0:
        raise ValueError(f"max_steps must be 0 or more, not {max_steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, not {tolerance}")
