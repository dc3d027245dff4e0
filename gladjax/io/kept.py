"""What a model file keeps for learning from further images, checked before use.

Notation: ``k`` components, ``d`` features, ``r`` rows, ``e`` entries of the counts.

Differs from the reference in: there is none.

Reference: there is none.
"""

import os
from collections.abc import Mapping

import numpy as np

from gladjax.detector import Kept
from gladjax.io.container import ModelError
from gladjax.online import Statistics
from gladjax.weights import LabelCounts

StrPath = str | os.PathLike[str]

_STATISTICS = {"counts": 1, "means": 2, "roots": 2, "offsets": 1, "ranks": 1}
_COUNTS = ("places", "components", "amounts")


def arrays(kept: Kept, prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one layer by name.

    Args:
      kept: What is kept of the layer.
      prefix: What their names begin with.
    """
    found = {
        f"{prefix}statistics.{name}": np.asarray(getattr(kept.statistics, name))
        for name in _STATISTICS
    }
    if kept.counts is not None:
        for name in _COUNTS:
            found[f"{prefix}counts.{name}"] = np.asarray(getattr(kept.counts, name))
    return found


def take(all_arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Removes the arrays of one layer that are kept from those of a file.

    Args:
      all_arrays: All arrays of the file.
      prefix: What the names of the layer begin with.

    Returns:
      Those that were removed, without the prefix.
    """
    names = [f"statistics.{name}" for name in _STATISTICS]
    names += [f"counts.{name}" for name in _COUNTS]
    present = [name for name in names if f"{prefix}{name}" in all_arrays]
    return {name: all_arrays.pop(f"{prefix}{name}") for name in present}


def restore(
    path: StrPath,
    found: Mapping[str, np.ndarray],
    means: np.ndarray,
    shape: tuple[int, int],
    *,
    local: bool,
) -> Kept | None:
    """Puts together what is kept of a layer; nothing of the file is believed.

    Args:
      path: The file, for messages.
      found: Arrays from `take`.
      means: Means of the layer's mixture.
      shape: Size of its map.
      local: Whether its weights are local.

    Returns:
      What is kept; None if there is nothing.

    Raises:
      ModelError: If an array is missing or does not fit.
    """
    if not found:
        return None
    wanted = len(_STATISTICS) + (len(_COUNTS) if local else 0)
    problem = "an array is missing or too many" if len(found) != wanted else ""
    problem = problem or _statistics_problem(found, means)
    if local:
        problem = problem or _counts_problem(found, len(means), shape)
    if problem:
        raise ModelError(f"{path}: in what it keeps for updates, {problem}; fit again")
    statistics = Statistics(
        **{name: found[f"statistics.{name}"] for name in _STATISTICS}
    )
    if not local:
        return Kept(statistics, None)
    parts = {name: found[f"counts.{name}"] for name in _COUNTS}
    return Kept(statistics, LabelCounts(**parts, shape=shape))


def _statistics_problem(found: Mapping[str, np.ndarray], means: np.ndarray) -> str:
    """Returns what is wrong with the statistics, or nothing."""
    (k, d), floats = means.shape, {"counts", "means", "roots"}
    for name, rank in _STATISTICS.items():
        value = found[f"statistics.{name}"]
        if value.ndim != rank or value.dtype.kind != ("f" if name in floats else "i"):
            return f"{name} is of another type"
        if name in floats and not np.isfinite(value).all():
            return f"{name} is not finite"
        if name != "roots" and len(value) != k:
            return f"{name} has another length"
    roots = found["statistics.roots"]
    if roots.shape[1] != d or found["statistics.means"].shape != (k, d):
        return "means and roots do not fit"
    offsets, ranks = found["statistics.offsets"], found["statistics.ranks"]
    ends = offsets.astype(np.int64) + ranks
    if (
        offsets.min() < 0
        or ranks.min() < 0
        or ranks.max() > d
        or ends.max() > len(roots)
    ):
        return "a component's rows lie outside"
    if found["statistics.counts"].min() < 0:
        return "a count is negative"
    return ""


def _counts_problem(
    found: Mapping[str, np.ndarray], k: int, shape: tuple[int, int]
) -> str:
    """Returns what is wrong with the counts of labels, or nothing."""
    places, components, amounts = (found[f"counts.{name}"] for name in _COUNTS)
    every = (places, components, amounts)
    if any(part.ndim != 1 or part.dtype.kind != "i" for part in every):
        return "the counts of labels are of another type"
    if len({len(part) for part in every}) != 1:
        return "the counts of labels have different lengths"
    if len(places) == 0:
        return ""
    if min(part.min() for part in every) < 0:
        return "a count of labels is negative"
    if components.max() >= k or places.max() >= shape[0] * shape[1]:
        return "a count of labels is of no component or position"
    return ""
