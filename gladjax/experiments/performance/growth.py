"""Time per iteration against samples, components and features.

Each of the three is doubled three times, the others at their largest; the exponent is
the slope of log time against log size. Features are the first ones in the order of the
network, of real solar cells. An iteration here reuses nothing: every component is
fitted and every sample is assigned, from the labels of the iteration before.
"""

import statistics
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gladjax import assign, estimation, kmle
from gladjax.experiments.performance import timing

LARGEST = {"samples": 51_200, "components": 1000, "features": 672}


def measure(axis: str, *, largest: dict[str, int] | None = None) -> dict[str, Any]:
    """Measures the growth along one axis.

    Args:
      axis: ``samples``, ``components`` or ``features``.
      largest: Sizes to end at.

    Returns:
      Sizes, seconds per size, and the fitted exponent.
    """
    largest = LARGEST if largest is None else largest
    everything = timing.solar_cells(
        "efficientnet_lite0_wide", "layer3", limit=largest["samples"]
    )
    sizes, seconds = timing.doubled(largest[axis], times=3), []
    for size in sizes:
        n, k, d = ({**largest, axis: size}[name] for name in LARGEST)
        every = len(everything) // n
        x = np.ascontiguousarray(everything[::every][:n, :d])
        seconds.append(_iteration(x, k))
    return {
        "axis": axis,
        "sizes": sizes,
        "seconds": seconds,
        "exponent": timing.growth_exponent(sizes, seconds),
        "others": {name: v for name, v in largest.items() if name != axis},
    }


def _iteration(x: np.ndarray, k: int) -> float:
    _, info = kmle.fit(jax.random.key(0), x, num_components=k, max_steps=2)
    labels = np.asarray(info.labels)
    k = int(labels.max()) + 1
    samples = jnp.asarray(x)
    room = timing.room(labels, k, x.shape[1])
    step = jax.jit(partial(estimation.maximize, num_components=k, room=room))

    def once() -> object:
        return assign.nearest(step(samples, labels), samples, start=labels)

    return statistics.median(timing.clock(once))


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """Returns the records as rows of a table, the head first."""
    lines = [["doubled", "sizes", "seconds per iteration", "exponent", "others"]]
    for r in records:
        others = ", ".join(f"{v} {name}" for name, v in r["others"].items())
        cells = [r["axis"], " / ".join(map(str, r["sizes"]))]
        cells += [" / ".join(f"{s:.2f}" for s in r["seconds"])]
        cells += [f"{r['exponent']:.2f}", others]
        lines.append(cells)
    return lines


def figure(records: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - of matplotlib
    """Returns a figure of all axes, both scales logarithmic."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 3), layout="constrained")
    axes = drawing.subplots(1, len(records), squeeze=False, sharey=True)[0]
    for ax, r in zip(axes, records, strict=True):
        ax.loglog(r["sizes"], r["seconds"], "o-", color="#1f5fa8")
        ax.set_xlabel(r["axis"])
        ax.set_title(f"exponent {r['exponent']:.2f}")
        ax.set_xticks(r["sizes"], [str(size) for size in r["sizes"]])
        ax.minorticks_off()
    axes[0].set_ylabel("seconds per iteration")
    return drawing
