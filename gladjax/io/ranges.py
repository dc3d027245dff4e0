"""In which ranges the numbers of a model's header lie: a checksum makes none sensible.

A smoothing of 1e9 pixels would fill the memory long after the file was accepted, so
numbers are refused when it is read, by their names.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import math
from collections.abc import Mapping
from typing import Any

Number = int | float
Limits = tuple[Number, Number]

MOTIONS = ("", "translation", "euclidean", "similarity", "affine", "homography")
ESTIMATORS = ("kmle", "em")

SETTINGS: dict[str, Limits] = {
    "num_components": (1, 10**7),
    "max_steps": (0, 10**7),
    "tolerance": (0, 1),
    "min_count": (0, 10**9),
    "max_samples": (0, 10**12),
    "radius": (0, 512),
    "prior": (0, 10**9),
    "quantile": (0, 1),
    "sigma": (0, 1024),
}
"""Least and greatest value of every setting that is a number."""

RATE = (1e-9, 1 - 1e-9)
"""Least and greatest false-positive rate."""

_NOTES = {"num_images": (0, 10**12), "num_bad": (0, 10**12), "num_updated": (0, 10**12)}
_LARGEST = 1e9  # Of a preprocessing constant.


def outside(name: str, value: Number, limits: Limits) -> str:
    """Returns what is wrong with a number, or nothing.

    Args:
      name: Its name.
      value: The number.
      limits: Least and greatest value.
    """
    low, high = limits
    if low <= value <= high:
        return ""
    return f"{name} is {value:g}, expected {low:g} to {high:g}"


def settings(given: Mapping[str, Any]) -> str:
    """Returns what is wrong with settings of the right types, or nothing.

    Args:
      given: Settings by name.
    """
    for name, value in given.items():
        if name in SETTINGS and (problem := outside(name, value, SETTINGS[name])):
            return problem
    for name, known in (("motion", MOTIONS), ("estimator", ESTIMATORS)):
        if given.get(name, known[0]) not in known:
            return f"{name} is {given[name]!r}, expected one of {', '.join(known)}"
    return ""


def header(given: Mapping[str, Any]) -> str:
    """Returns what is wrong with the numbers of a header, or nothing.

    Args:
      given: The header, its parts of the right types.
    """
    rate, limit = given["false_positive_rate"], given["threshold"]
    if rate is not None and (problem := outside("false_positive_rate", rate, RATE)):
        return problem
    if limit is not None and not math.isfinite(limit):
        return "threshold is not finite"
    if problem := outside("num_calibration", given["num_calibration"], (0, 10**12)):
        return problem
    return _backbone(given["backbone"]) or _notes(given["notes"])


def _backbone(given: Mapping[str, Any]) -> str:
    for name in ("offset", "scale"):
        if not all(_number(v) and abs(v) <= _LARGEST for v in given[name]):
            return f"{name} of the backbone is not three numbers up to {_LARGEST:g}"
    if not all(given["scale"]):
        return "scale of the backbone is 0"
    if not all(isinstance(name, str) for name in given["layers"]):
        return "layers of the backbone are not names"
    if not all(
        isinstance(d, int) and _number(d) and 0 < d < 10**6 for d in given["dims"]
    ):
        return "dims of the backbone are not whole numbers"
    return ""


def _notes(given: Mapping[str, Any]) -> str:
    """Looks at those notes that are counted with."""
    for name, limits in _NOTES.items():
        value = given.get(name, 0)
        if not _number(value):
            return f"{name} is no number"
        if problem := outside(name, value, limits):
            return problem
    seconds = given.get("seconds", {})
    if not isinstance(seconds, Mapping) or not all(map(_number, seconds.values())):
        return "seconds are no numbers"
    return ""


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
