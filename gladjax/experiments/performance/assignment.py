"""Pruned assignment, one K-MLE iteration and a whole fit beside the dense argmin.

Real features of solar cells at three widths: the third layer of EfficientNet-Lite0 and
the expanded activations in front of it and of the second. The mixture is that of the
fit itself, ended by the paper's rule. The labels are compared with those of the dense
float32 baseline and, on fewer samples, with the argmin in float64; a difference counts
as a tie where the two least costs in float64 differ by less than float32 can tell.
"""

import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gladjax import assign, devices, estimation, kmle
from gladjax.experiments.performance import timing
from gladjax.mixture import GaussianMixture

WIDTHS = {
    112: ("efficientnet_lite0", "layer3"),
    240: ("efficientnet_lite0_wide", "layer2"),
    672: ("efficientnet_lite0_wide", "layer3"),
}
TIE = 1e-5  # Relative difference of costs that float32 does not resolve.


def measure(
    width: int,
    *,
    num_samples: int = 51_200,
    num_components: int = 1000,
    baseline_samples: int = 8192,
    exact_samples: int = 2048,
    max_steps: int = 100,
) -> dict[str, Any]:
    """Measures everything at one width.

    Args:
      width: One of `WIDTHS`.
      num_samples: Samples to fit and to assign.
      num_components: To start with.
      baseline_samples: Samples of the dense baseline; its time grows in proportion.
      exact_samples: Samples of the comparison in float64.
      max_steps: Largest number of steps.

    Returns:
      The record.
    """
    x = timing.solar_cells(*WIDTHS[width], limit=num_samples)
    begun = time.perf_counter()
    fitted, info = kmle.fit(
        jax.random.key(0), x, num_components=num_components, max_steps=max_steps
    )
    fit_seconds = time.perf_counter() - begun
    mixture = jax.tree.map(np.asarray, fitted)
    peak = timing.matrix_peak()
    dense = _dense(mixture, x[:baseline_samples])
    found_labels, _, found = assign.nearest_info(mixture, x)
    labels = np.asarray(found_labels)
    passed = timing.clock(lambda: assign.nearest(mixture, x))
    seconds = statistics.median(passed)
    dense_seconds = dense["seconds"] * len(x) / baseline_samples
    k, d = mixture.means.shape
    work = 2e-9 * len(x) * k * d * d
    return {
        "width": width,
        "num_samples": len(x),
        "num_components": [num_components, k],
        "fit_seconds": fit_seconds,
        "steps": len(info.log_likelihood),
        "converged": bool(info.converged),
        "iteration": _iteration(mixture, x, np.asarray(info.labels), peak),
        "peak_gflops": peak,
        "dense_seconds": dense_seconds,
        "dense_share_of_peak": work / dense_seconds / peak,
        "nearest_seconds": seconds,
        "nearest_all_seconds": passed,
        "times_faster": dense_seconds / seconds,
        "full_costs_per_sample": float(found.evaluated),
        "survivors_per_sample": float(found.survivors),
        "leading_coordinates": devices.ranks(d),
        "least_margin": float(np.min(found.margin)),
        "unlike_dense_float32": int(
            np.sum(labels[:baseline_samples] != dense["labels"])
        ),
        **_unlike(mixture, x[:exact_samples], labels[:exact_samples]),
    }


def _dense(mixture: GaussianMixture, x: np.ndarray) -> dict[str, Any]:
    """Returns labels and median time of the baseline."""
    constants = jnp.asarray(mixture.log_dets - 2 * mixture.log_weights)
    roots, means = jnp.asarray(timing.whitening(mixture)), jnp.asarray(mixture.means)
    samples = jnp.asarray(x)
    labels, _ = timing.dense_argmin(roots, means, constants, samples)
    passed = timing.clock(
        lambda: timing.dense_argmin(roots, means, constants, samples), rounds=2
    )
    return {"labels": np.asarray(labels), "seconds": min(passed)}


def _iteration(
    mixture: GaussianMixture, x: np.ndarray, labels: np.ndarray, peak: float
) -> dict[str, float]:
    """Times a step that reuses nothing: all components fitted, all samples assigned."""
    k, d = mixture.means.shape
    samples = jnp.asarray(x)
    step = jax.jit(
        partial(estimation.maximize, num_components=k, room=timing.room(labels, k, d))
    )
    fitting = statistics.median(timing.clock(lambda: step(samples, labels)))
    again = step(samples, labels)
    _, _, info = assign.nearest_info(again, samples, start=labels)
    assigning = statistics.median(
        timing.clock(lambda: assign.nearest(again, samples, start=labels))
    )
    counts = np.bincount(labels[labels >= 0], minlength=k).astype(float)
    few = counts <= d
    # Products only: Gram matrices and rows, or scatters; bounds; full costs.
    products = np.sum(np.where(few, 4 * counts**2 * d, 2 * counts * d * d))
    share = np.mean(np.minimum(counts, d)[labels[labels >= 0]])
    r, _ = devices.ranks(d)
    low = len(x) * (2 * d * r + k * (r + 1) * (r + 2))
    products += low + len(x) * float(info.evaluated) * 2 * d * share
    return {
        "m_step_seconds": fitting,
        "e_step_seconds": assigning,
        "seconds": fitting + assigning,
        "gflop": 1e-9 * products,
        "share_of_peak": 1e-9 * products / (fitting + assigning) / peak,
    }


def _unlike(
    mixture: GaussianMixture, x: np.ndarray, labels: np.ndarray
) -> dict[str, int]:
    """Counts labels that differ from the argmin in float64, and ties among them."""
    exact, least = timing.two_least(mixture, x)
    unlike = labels != exact
    close = least[:, 1] - least[:, 0] <= TIE * np.abs(least[:, 0])
    return {
        "checked_in_float64": len(x),
        "unlike_float64": int(np.sum(unlike)),
        "of_them_ties": int(np.sum(unlike & close)),
    }


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """Returns the records as rows of a table, the head first."""
    head = ["width", "samples", "components", "peak Gflop/s", "dense s", "of peak"]
    head += ["nearest s", "times faster", "full costs", "survivors", "unlike float64"]
    head += ["M-step s", "E-step s", "of peak", "fit s", "steps"]
    lines = [head]
    for r in records:
        step = r["iteration"]
        cells = [r["width"], r["num_samples"], r["num_components"][1]]
        cells += [f"{r['peak_gflops']:.0f}", f"{r['dense_seconds']:.1f}"]
        cells += [f"{r['dense_share_of_peak']:.2f}", f"{r['nearest_seconds']:.2f}"]
        cells += [f"{r['times_faster']:.1f}", f"{r['full_costs_per_sample']:.2f}"]
        cells += [f"{r['survivors_per_sample']:.1f}"]
        cells += [f"{r['unlike_float64']} of {r['checked_in_float64']}"]
        cells += [f"{step['m_step_seconds']:.2f}", f"{step['e_step_seconds']:.2f}"]
        cells += [f"{step['share_of_peak']:.2f}", f"{r['fit_seconds']:.0f}"]
        cells += [f"{r['steps']}{'' if r['converged'] else ' (not ended)'}"]
        lines.append([str(cell) for cell in cells])
    return lines
