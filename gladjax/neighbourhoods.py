"""Layers seen at a second scale: means of features over neighbouring cells.

What a cell of a layer knows of its neighbours tells small defects of a changing texture
from the texture itself. So a layer may be looked at once more, its features averaged
over windows of 3 x 3 cells, say; this derived layer is called ``layer3@3``, and
everything that takes layers takes it: mixtures, local weights, baselines.

A window that would leave the map is moved inside, so all windows are of as many cells.
At the border the derived layer has nothing of its own to say, then: there its log-map
is the median of the rest. A layer and what is derived of it are one observation at
several scales, so their log-maps are averaged, not added. That decides the score;
where the defect is, the heat map says by the layers' own scale, which is sharper.

Notation: ``h w d`` a feature map, ``s`` the side of a window in cells.

Differs from the reference in
  1. The paper has one scale per layer, and the finest of three layers; what a second
     scale gains and costs, and the finest layer, is in experiments, `neighbourhoods`.

Reference: Artola et al., "GLAD", WACV 2023, Section 3.3; for means over neighbouring
cells, Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gladjax.backbone import Backbone
from gladjax.mixture import AnyArray

T = TypeVar("T")
MAX_SIDE = 31
_NAME = re.compile(r"(.+)@(\d{1,2})")


def split(name: str) -> tuple[str, int]:
    """Returns the layer that a name is derived of, and the side of its windows.

    Args:
      name: Of a layer, derived or not.

    Example:
      >>> split("layer3@3"), split("layer3")
      (('layer3', 3), ('layer3', 1))
    """
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 1)


def select(backbone: Backbone, layers: Sequence[str]) -> Backbone:
    """Returns a network that gives other layers, some of them derived.

    Args:
      backbone: The network.
      layers: Names of its layers, fine to coarse, or derived ones such as ``layer3@3``.

    Raises:
      ValueError: If there is no such layer, one is named twice, or a side is not odd
        and 3 to 31.
    """
    dims = dict(zip(backbone.layers, backbone.dims, strict=True))
    for name in layers:
        base, side = split(name)
        if base not in dims or list(layers).count(name) > 1:
            raise ValueError(
                f"no layer {name!r}, or twice; {backbone.name} has "
                f"{', '.join(n for n in dims if split(n)[0] == n)}"
            )
        if "@" in name and (side % 2 == 0 or not 3 <= side <= MAX_SIDE):
            raise ValueError(f"{name}: the side must be odd, 3 to {MAX_SIDE} cells")
    if not layers:
        raise ValueError("name at least one layer")
    return dataclasses.replace(
        backbone,
        layers=tuple(layers),
        dims=tuple(dims[split(name)[0]] for name in layers),
    )


def seen(backbone: Backbone, side: int, *, finest: bool) -> Backbone:
    """Returns a network that gives the layers that a detector looks at.

    Args:
      backbone: The network; one that gives derived layers already stays as it is.
      side: Side, in cells, of the windows of the last layer's second scale, odd; 1 for
        none.
      finest: Whether the first layer is among them where there are three or more.

    Raises:
      ValueError: If the side is not odd, or above 31.
    """
    if any(split(name)[1] > 1 for name in backbone.layers):
        return backbone
    *names, last = backbone.layers
    if len(names) > 1 and not finest:
        names = names[1:]
    names += [last] if side == 1 else [last, f"{last}@{side}"]
    return backbone if tuple(names) == backbone.layers else select(backbone, names)


def plain(backbone: Backbone) -> Backbone:
    """Returns a network that gives its own layers only.

    Args:
      backbone: The network.
    """
    return select(backbone, [n for n in backbone.layers if split(n)[1] == 1])


def derived(
    maps: Mapping[str, Float[Array, "n _h _w _d"]], layers: Sequence[str]
) -> dict[str, Float[Array, "n _h _w _d"]]:
    """Returns the layers of some names from a network's own.

    Args:
      maps: A map of every layer of the network.
      layers: Names, derived or not.
    """
    found = {}
    for name in layers:
        base, side = split(name)
        found[name] = means(maps[base], side) if name not in maps else maps[name]
    return found


def means(maps: Float[Array, "n h w d"], side: int) -> Float[Array, "n h w d"]:
    """Returns the means of features over square windows inside the map.

    Args:
      maps: Feature maps.
      side: Side of the windows in cells, odd; at most that of the map counts.

    Example:
      >>> means(jnp.arange(5.0).reshape(1, 1, 5, 1), 3).ravel()
      Array([1., 1., 2., 3., 3.], dtype=float32)
    """
    for axis in (1, 2):
        count = maps.shape[axis]
        reach = min(side, count - 1 + count % 2) // 2
        inside = count - 2 * reach
        total = sum(
            jax.lax.slice_in_dim(maps, i, i + inside, axis=axis)
            for i in range(2 * reach + 1)
        )
        mean = jnp.asarray(total) / (2 * reach + 1)
        # The outermost means again; converters to ONNX know no padding by edges.
        first = jax.lax.slice_in_dim(mean, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(mean, inside - 1, inside, axis=axis)
        maps = jnp.concatenate([first] * reach + [mean] + [last] * reach, axis=axis)
    return maps


def merged(
    log_maps: Mapping[str, Float[AnyArray, "_h _w"]],
) -> list[Float[Array, "_h _w"]]:
    """Returns one log-map per layer of the network from those of all scales.

    Args:
      log_maps: A map of every layer, derived ones too.

    Returns:
      The means over the scales of a layer.
    """
    scales: dict[str, list[Array]] = {}
    for name, values in log_maps.items():
        base, side = split(name)
        scales.setdefault(base, []).append(_settled(jnp.asarray(values), side // 2))
    return [sum(maps[1:], start=maps[0]) / len(maps) for maps in scales.values()]


def own_scale(log_maps: Mapping[str, T]) -> list[T]:
    """Returns the sharpest log-map of every layer of the network.

    Args:
      log_maps: A map of every layer, derived ones too.
    """
    fine = sorted(log_maps, key=lambda name: split(name)[1], reverse=True)
    sharp = {split(name)[0]: log_maps[name] for name in fine}
    return [sharp[base] for base in dict.fromkeys(split(n)[0] for n in log_maps)]


def _settled(log_map: Float[Array, "h w"], reach: int) -> Float[Array, "h w"]:
    """Returns a log-map whose border is the median of the rest."""
    h, w = log_map.shape
    if reach == 0 or min(h, w) <= 2 * reach:
        return log_map
    inner = log_map[reach : h - reach, reach : w - reach]
    middle = jnp.sort(inner.ravel())[inner.size // 2]
    return jnp.pad(inner, reach, constant_values=middle)
