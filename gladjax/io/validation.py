"""Checks of what a model file claims: nothing in it is believed.

A wrong index would lead a compiled kernel out of its arrays, so every one is looked at
before any is followed. Arrays are looked at once each, in pieces.

Notation: ``k`` components, ``d`` features, ``r`` rows, ``e`` entries of the weights.

Differs from the reference in: there is none.

Reference: there is none.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gladjax.detector import Settings, model
from gladjax.io.container import ModelError

StrPath = str | os.PathLike[str]
Arrays = Mapping[str, np.ndarray]

MAX_SIDE = 1 << 14
"""The longest side of an image or a map, in pixels or cells, that a model may have."""


RATES = (1e-12, 1 - 1e-12)
"""The least and the largest false-positive rate that a model may have."""

LARGEST = 1e30
"""The largest number in a header: its square is one in float64."""


class Description(NamedTuple):
    """What a model file says of itself.

    Attributes:
      version: Version of the file's form.
      backbone: Name, hash, licence and preprocessing of the backbone.
      settings: How the detector was fitted.
      false_positive_rate: The rate that the decision is made for; None if none is.
      threshold: Score above which an image is anomalous; None if there is none.
      num_calibration: Number of calibration scores.
      libraries: Versions of the libraries that fitted it.
      notes: Whatever else was put in.
    """

    version: int
    backbone: dict[str, Any]
    settings: dict[str, Any]
    false_positive_rate: float | None
    threshold: float | None
    num_calibration: int
    libraries: dict[str, str]
    notes: dict[str, Any]


def description(path: StrPath, header: Mapping[str, Any], latest: int) -> Description:
    """Checks and returns what a header says.

    Args:
      path: The file, for messages.
      header: The header.
      latest: The latest version that is understood.

    Raises:
      ModelError: If the version is a later one, or something is missing, of another
        type or out of range.
    """
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelError(f"{path}: its header has no version; fit again")
    if version > latest:
        made = header.get("libraries")
        by = made.get("gladjax", "unknown") if isinstance(made, dict) else "unknown"
        raise ModelError(
            f"{path}: written in form {version} by gladjax {by}, this gladjax reads up "
            f"to {latest}; install a later gladjax or fit again"
        )
    if version < latest:
        raise ModelError(
            f"{path}: written in form {version} by an earlier gladjax, whose "
            "covariances have another form; fit again"
        )
    rate, limit = header.get("false_positive_rate"), header.get("threshold")
    checks = {
        "backbone": _backbone(header.get("backbone")),
        "settings": isinstance(header.get("settings"), dict),
        "false_positive_rate": rate is None or _number(rate, *RATES),
        "threshold": limit is None or _number(limit),
        "num_calibration": _count(header.get("num_calibration")),
        "libraries": isinstance(header.get("libraries"), dict),
        "notes": _notes(header.get("notes")),
    }
    for name, fine in checks.items():
        if not fine or name not in header:
            raise ModelError(f"{path}: its header has no usable {name}; fit again")
    return Description(version, **{name: header[name] for name in checks})


def _is(value: object, *kinds: type) -> bool:
    """Whether a value is of a type; truth values are no numbers."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _number(value: object, low: float = -LARGEST, high: float = LARGEST) -> bool:
    return (
        isinstance(value, int | float) and _is(value, object) and low <= value <= high
    )


def _count(value: object, low: int = 0, high: int = 1 << 48) -> bool:
    return isinstance(value, int) and _is(value, int) and low <= value <= high


def _notes(value: object) -> bool:
    """Whether the notes that are looked at are what they should be."""
    if not isinstance(value, dict) or not isinstance(value.get("seconds", {}), dict):
        return False
    times = all(_number(v) for v in value.get("seconds", {}).values())
    return times and _count(value.get("num_images", 0))


def _backbone(value: object) -> bool:
    """Whether a header's backbone has every part, of its type."""
    if not isinstance(value, dict):
        return False
    texts = all(isinstance(value.get(k), str) for k in ("name", "sha256", "licence"))
    size = value.get("image_size")
    sizes = isinstance(size, list) and len(size) == 2 and all(_side(v) for v in size)
    names, dims = value.get("layers"), value.get("dims")
    if not (isinstance(names, list) and isinstance(dims, list)):
        return False
    lists = all(isinstance(name, str) for name in names)
    lists = lists and all(_count(dim, 1) for dim in dims)
    triples = all(
        isinstance(value.get(k), list)
        and len(value[k]) == 3
        and all(map(_number, value[k]))
        for k in ("offset", "scale")
    )
    dtype = value.get("dtype") in ("float32", "float64", "bfloat16", "float16")
    return texts and sizes and lists and triples and dtype


def _side(value: object) -> bool:
    return _count(value, 1, MAX_SIDE)


def settings(path: StrPath, given: Mapping[str, Any]) -> Settings:
    """Checks and returns the settings; those that an older file lacks are the default.

    Args:
      path: The file, for messages.
      given: Settings by name.

    Raises:
      ModelError: If a name is unknown, or a value of another type or out of range.
    """
    defaults = dataclasses.asdict(Settings())
    for name, value in given.items():
        if name not in defaults:
            raise ModelError(
                f"{path}: the setting {name!r} is unknown here; install a later gladjax"
            )
        kind = type(defaults[name])
        fits = isinstance(value, bool) if kind is bool else _is(value, kind)
        if kind is float:
            fits = _number(value)
        if not fits:
            raise ModelError(f"{path}: the setting {name!r} has no usable value")
    try:
        model.check(given)
    except ValueError as error:
        raise ModelError(f"{path}: of its settings, {error}; fit again") from error
    return Settings(**given)


def layers(
    path: StrPath, header: Mapping[str, Any], arrays: Arrays
) -> dict[str, tuple[int, int]]:
    """Checks the arrays of every layer, and returns the layers' map sizes.

    Args:
      path: The file, for messages.
      header: The header.
      arrays: All arrays of the file.

    Raises:
      ModelError: If an array is missing, too many, or does not fit the others.
    """
    order, shapes = header.get("order"), header.get("layers")
    if not isinstance(order, list) or not isinstance(shapes, dict):
        raise ModelError(f"{path}: its header names no layers; fit again")
    if sorted(map(str, order)) != sorted(shapes) or not order:
        raise ModelError(f"{path}: the layers in its header disagree; fit again")
    found: dict[str, tuple[int, int]] = {}
    wanted = {"mask"} | ({"reference", "calibration"} & set(arrays))
    for i, name in enumerate(order):
        shape = shapes[name].get("shape") if isinstance(shapes[name], dict) else None
        if not (isinstance(shape, list) and len(shape) == 2 and all(map(_side, shape))):
            raise ModelError(f"{path}: layer {name!r} has no map size; fit again")
        wanted |= {f"{i}.{part}" for part in _PARTS}
        found[name] = (shape[0], shape[1])
    missing, extra = wanted - set(arrays), set(arrays) - wanted
    if missing or extra:
        what = f"lacks {sorted(missing)[:3]}" if missing else f"has {sorted(extra)[:3]}"
        raise ModelError(f"{path}: it {what}, so it is no whole model; fit again")
    for i, shape in enumerate(found.values()):
        parts = {part: arrays[f"{i}.{part}"] for part in _PARTS}
        problem = _problem(parts, shape)
        if problem:
            raise ModelError(f"{path}: in layer {i}, {problem}; fit again")
    return found


_PARTS = {
    "mixture.log_weights": (1, "f"),
    "mixture.means": (2, "f"),
    "mixture.rows": (2, "f"),
    "mixture.offsets": (1, "i"),
    "mixture.ranks": (1, "i"),
    "mixture.scales": (1, "f"),
    "mixture.noise": (1, "f"),
    "mixture.log_dets": (1, "f"),
    "local.starts": (1, "i"),
    "local.components": (1, "i"),
    "local.log_weights": (1, "f"),
}


def _problem(parts: Arrays, shape: tuple[int, int]) -> str:
    """Returns what is wrong with the arrays of a layer, or nothing."""
    means = parts["mixture.means"]
    for name, (rank, kind) in _PARTS.items():
        value = parts[name]
        wide = value.dtype == means.dtype if kind == "f" else value.dtype == np.int32
        if value.ndim != rank or value.dtype.kind != kind or not wide:
            return f"{name} is of another type"
    return _mixture_problem(parts) or _local_problem(parts, len(means), shape)


def _mixture_problem(parts: Arrays) -> str:
    (k, d), r = parts["mixture.means"].shape, len(parts["mixture.rows"])
    offsets, ranks = (parts[f"mixture.{n}"] for n in ("offsets", "ranks"))
    lengths = {
        f"mixture.{n}": k
        for n in ("log_weights", "offsets", "ranks", "scales", "noise", "log_dets")
    }
    for name, length in lengths.items():
        if len(parts[name]) != length:
            return f"{name} has another length"
    if k < 1 or d < 1 or parts["mixture.rows"].shape[1] != d:
        return "means and rows do not fit"
    ends = offsets.astype(np.int64) + ranks
    if offsets.min() < 0 or ranks.min() < 0 or ranks.max() > d or ends.max() > r:
        return "a component's rows lie outside"
    weights = parts["mixture.log_weights"]
    if np.isnan(weights).any() or (weights > 1e-3).any() or np.isneginf(weights).all():
        return "a weight is none"
    numbers = ("means", "rows", "scales", "noise", "log_dets")
    for name in numbers:
        if not _finite(parts[f"mixture.{name}"]):
            return f"mixture.{name} is not finite"
    if parts["mixture.scales"].min() < 0 or parts["mixture.noise"].min() <= 0:
        return "a variance is not positive"
    above = np.triu(np.ones((d, d), bool), 1)
    for first in offsets[ranks == d]:
        if np.any(parts["mixture.rows"][first : first + d][above]):
            return "the rows of a complete component are not triangular"
    return ""


def _finite(values: np.ndarray) -> bool:
    flat = values.reshape(-1)
    pieces = range(0, len(flat), 1 << 20)
    return all(np.isfinite(flat[first : first + (1 << 20)]).all() for first in pieces)


def _local_problem(parts: Arrays, k: int, shape: tuple[int, int]) -> str:
    starts, components = parts["local.starts"], parts["local.components"]
    weights = parts["local.log_weights"]
    if len(starts) != shape[0] * shape[1] + 1 or len(weights) != len(components):
        return "the local weights have another length"
    if starts[0] != 0 or starts[-1] != len(components) or np.any(np.diff(starts) < 1):
        return "the places of the local weights are not in order"
    if components.min() < 0 or components.max() >= k:
        return "a local weight is of no component"
    rises = np.diff(components) > 0
    rises[starts[1:-1] - 1] = True  # From one position to the next it may fall.
    if not rises.all():
        return "components of a position do not rise"
    if not _finite(weights) or weights.max() > 1e-3:
        return "a local weight is none"
    return ""


def frame(
    path: StrPath, arrays: Arrays, size: tuple[int, int], *, aligned: bool
) -> None:
    """Checks mask, reference and calibration scores.

    Args:
      path: The file, for messages.
      arrays: All arrays of the file.
      size: The backbone's image size.
      aligned: Whether there must be a reference.

    Raises:
      ModelError: If one is missing or of another size or type.
    """
    mask, reference = arrays["mask"], arrays.get("reference")
    if mask.shape != size or mask.dtype != np.bool_:
        raise ModelError(f"{path}: its mask is not {size[0]} x {size[1]}; fit again")
    if (reference is not None) != aligned:
        raise ModelError(f"{path}: motion and reference disagree; fit again")
    if reference is not None:
        fits = reference.shape == (*size, 3) and reference.dtype.kind == "f"
        if not fits or not _finite(reference):
            raise ModelError(f"{path}: its reference is not usable; fit again")
    scores = arrays.get("calibration")
    if scores is not None and (
        scores.ndim != 1 or scores.dtype.kind != "f" or np.isnan(scores).any()
    ):
        raise ModelError(f"{path}: its calibration scores are not usable; fit again")
