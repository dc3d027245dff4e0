"""A detector as named arrays and a header, and back.

The file holds what was learnt, the mask, the reference, the calibration scores and the
settings. It does not hold the backbone's weights: it names them and their hash, and a
detector is never put together with others. Whatever can be derived is derived again.

A file may come from anywhere, so nothing in it is believed: every array's presence,
type and shape, and every index that a compiled kernel will follow, is checked.

Notation: ``k`` components, ``d`` features, ``r`` rows, ``h w`` the map of a layer.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gladjax import backbone as backbones
from gladjax import cache, calibrate, factors, mixture, neighbourhoods
from gladjax.backbone import Backbone
from gladjax.detector import Detector, Layer, Settings, tiles
from gladjax.io import container, validation
from gladjax.io import half as half_rows
from gladjax.io import kept as kept_arrays
from gladjax.io.container import ModelError
from gladjax.io.half import Halved
from gladjax.io.validation import Description
from gladjax.mixture import GaussianMixture
from gladjax.weights import LocalWeights

StrPath = str | os.PathLike[str]

VERSION = 3
"""The version of the file's form; before 3, covariances had another one."""

_LIBRARIES = ("gladjax", "jax", "numpy", "safetensors")
_MIXTURE = tuple(
    field.name
    for field in dataclasses.fields(GaussianMixture)  # type: ignore[arg-type]
    if field.name != "inverses"  # They follow from the others.
)
_LOCAL = ("starts", "components", "log_weights")


def save(
    path: StrPath,
    detector: Detector,
    *,
    false_positive_rate: float | None = None,
    notes: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes a detector to one file, whole or not at all.

    Args:
      path: The file, by custom ``.safetensors``.
      detector: The detector.
      false_positive_rate: The rate of the decision, in (0, 1).
      notes: Anything with a JSON form to keep beside it, such as times.
      half: Round the rows to half precision, less than half the size; the
        log-maps of the loaded detector then differ by about 1e-4 of their values.

    Raises:
      ValueError: If the rate is out of range.
      OSError: If the file cannot be written.
    """
    scores = detector.calibration
    limit = None
    if false_positive_rate is not None:
        low, high = validation.RATES
        if not low <= false_positive_rate <= high:
            raise ValueError(
                f"the false-positive rate must be {low:g} to 1 - {low:g}, "
                f"not {false_positive_rate}"
            )
        known = None if scores is None else np.asarray(scores)
        limit = calibrate.decide(known, 0.0, rate=false_positive_rate).threshold
    header = {
        "version": VERSION,
        "backbone": _identity(detector.backbone),
        "layers": {
            name: {"shape": list(layer.local_weights.shape)}
            for name, layer in detector.layers.items()
        },
        "order": list(detector.layers),
        "settings": dataclasses.asdict(detector.settings),
        "false_positive_rate": false_positive_rate,
        "threshold": limit,
        "num_calibration": 0 if scores is None else len(scores),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "notes": dict(notes or {}),
        "half": half,
    }
    arrays = _arrays(detector)
    if half:
        for i in range(len(detector.layers)):
            _halve(arrays, f"{i}.mixture.")
    container.write(path, arrays, header)


def _identity(backbone: Backbone) -> dict[str, Any]:
    """Returns what must agree between the backbone of a file and the one at hand."""
    return {
        "name": backbone.name,
        "sha256": _fingerprint(backbone),
        "licence": backbone.licence,
        "layers": list(backbone.layers),
        "dims": list(backbone.dims),
        "image_size": list(backbone.image_size),
        "offset": list(backbone.offset),
        "scale": list(backbone.scale),
        "dtype": _dtype(backbone),
    }


def _dtype(backbone: Backbone) -> str:
    leaves = jax.tree.leaves(backbone.weights)
    return str(leaves[0].dtype) if leaves else "float32"


def _fingerprint(backbone: Backbone) -> str:
    """Returns the checkpoint's hash, or that of the weights where there is none."""
    if backbone.sha256:
        return backbone.sha256
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(backbone.weights):
        value = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {value.shape} {value.dtype}\n"
        digest.update(name.encode() + value.tobytes())
    return f"weights:{digest.hexdigest()}"


def _arrays(detector: Detector) -> dict[str, np.ndarray]:
    arrays = {"mask": np.asarray(detector.mask)}
    if detector.reference is not None:
        arrays["reference"] = np.asarray(detector.reference)
    if detector.calibration is not None:
        arrays["calibration"] = np.asarray(detector.calibration)
    for i, layer in enumerate(detector.layers.values()):
        used = mixture.first(layer.mixture, len(layer.mixture.means))
        for name in _MIXTURE:
            arrays[f"{i}.mixture.{name}"] = np.asarray(getattr(used, name))
        for name in _LOCAL:
            arrays[f"{i}.local.{name}"] = np.asarray(getattr(layer.local_weights, name))
        if layer.kept is not None:
            arrays |= kept_arrays.arrays(layer.kept, f"{i}.")
    return arrays


def _halve(arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Replaces the rows of a mixture by their parts in half precision."""
    offsets, ranks = arrays[f"{prefix}offsets"], arrays[f"{prefix}ranks"]
    packed = half_rows.pack(arrays.pop(f"{prefix}rows"), offsets, ranks)
    for name, value in packed._asdict().items():
        arrays[f"{prefix}half.{name}"] = value


def _restore(path: StrPath, arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Replaces the parts by rows; nothing of the file is believed."""
    names = [f"{prefix}half.{name}" for name in Halved._fields]
    needed = [*names, f"{prefix}offsets", f"{prefix}ranks", f"{prefix}means"]
    if any(name not in arrays for name in needed):
        raise ModelError(f"{path}: it lacks rows, so it is no whole model; fit again")
    *parts, offsets, ranks, means = (arrays[name] for name in needed)
    ranked = [1, 1, 1, 1, 1, 2]
    kinds = "ffbiif"
    for name, value, ndim, kind in zip(
        needed, (*parts, offsets, ranks, means), ranked, kinds, strict=True
    ):
        if value.ndim != ndim or value.dtype.kind != kind:
            raise ModelError(f"{path}: {name} is of another type; fit again")
    try:
        rows = half_rows.unpack(Halved(*parts), offsets, ranks, means.shape[1])
    except ValueError as error:
        raise ModelError(f"{path}: in {prefix[:-1]}, {error}; fit again") from error
    for name in names:
        del arrays[name]
    arrays[f"{prefix}rows"] = rows


def describe(path: StrPath) -> Description:
    """Reads what a model file says of itself; its arrays are not read.

    Args:
      path: The file.

    Raises:
      ModelError: If the file is missing, is no model, or is of a later version.
    """
    return validation.description(path, container.read_header(path), VERSION)


def load(path: StrPath, *, backbone: Backbone | None = None) -> Detector:
    """Reads a detector.

    Args:
      path: The file.
      backbone: The network it was fitted with; by default the one of the name in the
        file, from the place where `gladjax.backbone.load` finds it.

    Returns:
      The detector, every array equal to the saved one, bit by bit, but for rows saved
      in half precision and for what flat arrays have room for beside.

    Raises:
      ModelError: If the file is missing, truncated, changed, of a later version, not
        consistent, or fitted with another backbone.
      FileNotFoundError: If the backbone's weights are not at hand.
    """
    cache.release_programs()
    description = describe(path)
    arrays, header = container.read(path)
    network = _network(path, description.backbone, backbone)
    settings = validation.settings(path, description.settings)
    if header.get("half") is True:
        for i in range(len(network.layers)):
            _restore(path, arrays, f"{i}.mixture.")
    kept = [kept_arrays.take(arrays, f"{i}.") for i in range(len(network.layers))]
    shapes = validation.layers(path, header, arrays)
    validation.frame(path, arrays, network.image_size, aligned=bool(settings.motion))
    if tuple(shapes) != tuple(network.layers):
        raise ModelError(f"{path}: its layers {list(shapes)} are not the backbone's")
    for i, dim in enumerate(network.dims):
        if arrays[f"{i}.mixture.means"].shape[1] != dim:
            raise ModelError(f"{path}: layer {i} does not have {dim} features")
    _divides(path, network, settings, shapes)
    layers = {
        name: _layer(path, arrays, i, shape, settings)
        for i, (name, shape) in enumerate(shapes.items())
    }
    for (name, layer), found in zip(layers.items(), kept, strict=True):
        means, local = np.asarray(layer.mixture.means), settings.local
        own = kept_arrays.restore(path, found, means, shapes[name], local=local)
        layers[name] = dataclasses.replace(layer, kept=own)
    return Detector(
        backbone=network,
        layers=layers,
        mask=arrays["mask"],
        reference=arrays.get("reference"),
        calibration=arrays.get("calibration"),
        settings=settings,
    )


def _divides(
    path: StrPath,
    network: Backbone,
    settings: Settings,
    shapes: Mapping[str, tuple[int, int]],
) -> None:
    """Refuses maps that are not those of the model's tiles."""
    try:
        grids = tiles.plan(network, settings).grids
    except ValueError as error:
        raise ModelError(f"{path}: of its tiles, {error}; fit again") from error
    if grids and grids != shapes:
        raise ModelError(f"{path}: its maps are not those of its tiles; fit again")


def _layer(
    path: StrPath,
    arrays: dict[str, np.ndarray],
    i: int,
    shape: tuple[int, int],
    settings: Settings,
) -> Layer:
    values = {n: arrays[f"{i}.mixture.{n}"] for n in _MIXTURE}
    values["inverses"] = np.zeros(0, values["rows"].dtype)
    given = GaussianMixture(**values)
    given = mixture.roomy(given, inverses=mixture.num_inverses(given))
    given = factors.solved(given, len(given.inverses))
    local = LocalWeights(**{n: arrays[f"{i}.local.{n}"] for n in _LOCAL}, shape=shape)
    if not bool(np.all(np.isfinite(given.inverses))):
        raise ModelError(f"{path}: layer {i} has a covariance that is none; fit again")
    return Layer(given, local, tiles.prepare(given, local, settings))


def _network(
    path: StrPath, expected: dict[str, Any], backbone: Backbone | None
) -> Backbone:
    """Returns the backbone of a file, or says how the one at hand differs."""
    name = expected["name"]
    if backbone is None:
        size = tuple(expected["image_size"])
        try:
            known = expected["sha256"]
            backbone = backbones.load(name, image_size=size, sha256=known)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{pathlib.Path(path)}: {error}") from error
        except ValueError as error:
            raise ModelError(
                f"{path}: fitted with the backbone {name!r}, which has no published "
                f"weights here ({error}); load it yourself and hand it "
                "over (backbone= or --checkpoint)"
            ) from error
        if expected["dtype"] != _dtype(backbone):
            backbone = backbones.astype(backbone, expected["dtype"])
    with contextlib.suppress(ValueError):  # Where it cannot, the layers differ below.
        backbone = neighbourhoods.select(backbone, expected["layers"])
    found = _identity(backbone)
    for key in ("name", "sha256", "layers", "dims", "image_size", "offset", "scale"):
        if found[key] != expected[key]:
            raise ModelError(
                f"{path}: fitted with a backbone whose {key} is {expected[key]}, the "
                f"one at hand has {found[key]}; use the checkpoint it was fitted with "
                "or fit again"
            )
    return backbone
