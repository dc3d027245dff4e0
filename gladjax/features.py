"""Images to named feature maps.

`extract` is the pure function: preprocessed images in, one map per layer out; jit,
vmap, `jax.eval_shape` and sharding over the batch apply to it as to any other.
`extract_batches` is the loop around it: it takes raw images, prepares them on the host,
runs a program compiled once (on CPU one that takes the batch image by image, which is
faster there) and collects NumPy arrays.

Notation: layer ``l`` gives ``u(x)`` in ``R^d`` on a grid of ``h`` by ``w`` positions.

Differs from the reference in: nothing.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 3.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from gladjax import devices, neighbourhoods, programs
from gladjax.backbone import Backbone, preprocess


def extract(
    backbone: Backbone, images: Num[Array | np.ndarray, "n h w 3"]
) -> dict[str, Float[Array, "n _h _w _d"]]:
    """Returns the feature maps of preprocessed images.

    Args:
      backbone: The network.
      images: Batch as `gladjax.backbone.preprocess` returns it; any size.

    Returns:
      One map per layer of the backbone, channels last, in the dtype of its weights.
    """
    maps = backbone.apply(backbone.weights, jnp.asarray(images))
    return neighbourhoods.derived(maps, backbone.layers)


def extract_each(
    backbone: Backbone, images: Num[Array | np.ndarray, "n h w 3"]
) -> dict[str, Float[Array, "n _h _w _d"]]:
    """Returns what `extract` returns, computed one image after the other.

    On CPU this is the faster way: the maps of one image stay in the cache, those of a
    batch do not. The batch axis must not be sharded.

    Args:
      backbone: The network.
      images: Batch as `gladjax.backbone.preprocess` returns it; any size.

    Returns:
      One map per layer of the backbone, channels last, in the dtype of its weights.
    """

    def one(image: Num[Array, "h w 3"]) -> dict[str, Array]:
        return {layer: m[0] for layer, m in extract(backbone, image[None]).items()}

    return jax.lax.map(one, jnp.asarray(images))


@programs.Program
def run(
    backbone: Backbone, images: Num[Array | np.ndarray, "n h w 3"]
) -> dict[str, Float[Array, "n _h _w _d"]]:
    """Returns what `extract` returns, by one program, in the way that suits the device.

    Args:
      backbone: The network.
      images: Batch as `gladjax.backbone.preprocess` returns it; any size.

    Returns:
      One map per layer of the backbone, channels last, in the dtype of its weights.
    """
    return (extract if devices.sizes().together else extract_each)(backbone, images)


def shapes(
    backbone: Backbone, *, image_size: tuple[int, int] | None = None
) -> dict[str, tuple[int, int, int]]:
    """Returns height, width and channels of each map, without computing it.

    Args:
      backbone: The network.
      image_size: Height and width of the input, instead of the backbone's own.
    """
    images = jax.ShapeDtypeStruct(
        (1, *(image_size or backbone.image_size), 3), jnp.float32
    )
    maps = jax.eval_shape(extract, backbone, images)
    return {layer: tuple(maps[layer].shape[1:]) for layer in backbone.layers}


def stream(
    backbone: Backbone, images: Iterable[np.ndarray | Array], *, batch_size: int = 8
) -> Iterator[dict[str, Float[np.ndarray, "n _h _w _d"]]]:
    """Yields the feature maps of raw images, batch after batch.

    Args:
      backbone: The network.
      images: RGB images ``(h, w, 3)``, 0 to 255, of any sizes; read as they are needed.
      batch_size: Images a step; the last batch is padded for the computation and cut
        afterwards, so that one compiled program serves.

    Yields:
      Float32 arrays per layer, of ``batch_size`` images or, at the end, fewer.

    Raises:
      ValueError: If ``batch_size`` is below 1, or an image has another shape.
    """
    devices.check_process()
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    pending = iter(images)
    while chunk := list(itertools.islice(pending, batch_size)):
        batch = preprocess(backbone, chunk)
        short = batch_size - len(chunk)
        padded = np.pad(batch, ((0, short), (0, 0), (0, 0), (0, 0)))
        maps = run(backbone, padded)
        yield {
            layer: np.asarray(value[: len(chunk)], np.float32)
            for layer, value in maps.items()
        }


def extract_batches(
    backbone: Backbone,
    images: Iterable[np.ndarray | Array],
    *,
    batch_size: int = 8,
    out: Mapping[str, np.ndarray] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float[np.ndarray, "m _h _w _d"]]:
    """Collects the feature maps of many raw images.

    Args:
      backbone: The network.
      images: RGB images ``(h, w, 3)``, 0 to 255, of any sizes; read as they are needed.
      batch_size: Images a step.
      out: Arrays to fill per layer, ``(m, h, w, d)``, such as memory maps; without
        them, arrays are allocated.
      progress: Called after each batch with its number of images.

    Returns:
      Float32 arrays per layer (or ``out``), one map per image, in the images' order.

    Raises:
      ValueError: If ``batch_size`` is below 1, an image has another shape, or ``out``
        lacks a layer or has room for another number of images.
    """
    parts: dict[str, list[np.ndarray]] = {layer: [] for layer in backbone.layers}
    done = 0
    for maps in stream(backbone, images, batch_size=batch_size):
        count = len(maps[backbone.layers[0]])
        for layer, value in maps.items():
            if out is None:
                parts[layer].append(value)
            else:
                _room(out, layer, value, done)[...] = value
        done += count
        if progress is not None:
            progress(count)
    if out is not None:
        for layer in backbone.layers:
            if layer not in out or len(out[layer]) != done:
                raise ValueError(f"out[{layer!r}] must hold {done} maps")
        return dict(out)
    if done == 0:
        grids = shapes(backbone).items()
        return {layer: np.zeros((0, *grid), np.float32) for layer, grid in grids}
    return {layer: np.concatenate(parts[layer]) for layer in backbone.layers}


def _room(
    out: Mapping[str, np.ndarray], layer: str, value: np.ndarray, done: int
) -> np.ndarray:
    """The part of an output array that the next maps go to."""
    if layer not in out:
        raise ValueError(f"out lacks the layer {layer!r}")
    room = out[layer][done : done + len(value)]
    if room.shape != value.shape:
        raise ValueError(
            f"out[{layer!r}] has room of shape {room.shape} for maps {value.shape}"
        )
    return room
