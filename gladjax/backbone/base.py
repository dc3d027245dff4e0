"""What a backbone is: weights, a preprocessing description and a pure function.

Everything downstream needs three things of a network: how an image becomes its input,
which named maps it gives, and a function from weights and input to those maps. A
`Backbone` is exactly that. Any network fits; `from_function` wraps one.

Notation: images are RGB, ``(h, w, 3)``, 0 to 255, until `preprocess`, which resizes and
returns ``(x - offset) / scale``, channels last.

Differs from the reference in:

1. The paper normalises and feeds images in PyTorch; here resizing runs on the host in
   Pillow, whose antialiased triangle filter is the definition, columns before rows.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD: A Global-to-Local Anomaly Detector".
WACV 2023, section 4.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num
from PIL import Image

from gladjax.pytree import pytree, static

Maps = Mapping[str, Array]
Apply = Callable[[Any, Array], Maps]
Images = np.ndarray | Array | Sequence[np.ndarray | Array]


@pytree
class Backbone:
    """A frozen network seen as a pure function of a pytree of weights.

    Attributes:
      weights: Pytree of arrays, the first argument of ``apply``.
      name: Name under which `gladjax.backbone.load` finds it.
      layers: Names of the maps, fine to coarse.
      dims: Channels of each map.
      image_size: Height and width that `preprocess` resizes to.
      offset: Subtracted from each RGB channel (0 to 255).
      scale: Divides each RGB channel afterwards.
      sha256: Hash of the checkpoint's weights up to the last tap, as
        `gladjax.backbone.content_hash` has it; empty where no checkpoint is behind
        the weights.
      licence: Licence of the weights.
      apply: Hashable pure function ``(weights, images) -> {layer: (n, h, w, d)}``.
    """

    weights: Any
    name: str = static()
    layers: tuple[str, ...] = static()
    dims: tuple[int, ...] = static()
    image_size: tuple[int, int] = static()
    offset: tuple[float, float, float] = static()
    scale: tuple[float, float, float] = static()
    sha256: str = static()
    licence: str = static()
    apply: Apply = static()


def from_function(  # noqa: PLR0913 - a description
    apply: Apply,
    weights: Any,  # noqa: ANN401 - any pytree of arrays
    *,
    name: str,
    layers: tuple[str, ...],
    image_size: tuple[int, int] = (256, 256),
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: tuple[float, float, float] = (255.0, 255.0, 255.0),
    licence: str = "unknown",
    dims: tuple[int, ...] | None = None,
) -> Backbone:
    """Wraps any network as a `Backbone`.

    Args:
      apply: Pure function ``(weights, images) -> {layer: (n, h, w, d)}``; hashable, and
        equal to itself across calls, because it is part of the jit cache's key.
      weights: Pytree of arrays.
      name: A name for messages and saved models.
      layers: The maps of ``apply`` to use, fine to coarse.
      image_size: Height and width of the input.
      offset: Subtracted from each RGB channel (0 to 255).
      scale: Divides each RGB channel afterwards.
      licence: Licence of the weights.
      dims: Channels of each map, where they are known; tracing takes a while.

    Returns:
      The backbone; by default its ``dims`` are found by tracing ``apply`` once without
      computing.

    Raises:
      ValueError: If ``apply`` does not give a map of rank 4 for each layer.
    """
    if dims is None:
        images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
        maps = jax.eval_shape(apply, weights, images)
        for layer in layers:
            if layer not in maps or len(maps[layer].shape) != 4:
                given = ", ".join(f"{key} {map_.shape}" for key, map_ in maps.items())
                raise ValueError(
                    f"{name}: apply gives no (n, h, w, d) map named {layer!r}; "
                    f"it gives {given}"
                )
        dims = tuple(int(maps[layer].shape[-1]) for layer in layers)
    return Backbone(
        weights=weights,
        name=name,
        layers=tuple(layers),
        dims=dims,
        image_size=image_size,
        offset=offset,
        scale=scale,
        sha256="",
        licence=licence,
        apply=apply,
    )


def astype(backbone: Backbone, dtype: DTypeLike) -> Backbone:
    """Returns the backbone with weights, and so computations and maps, of a dtype.

    Args:
      backbone: A backbone.
      dtype: A floating dtype, such as ``jnp.bfloat16``.

    Returns:
      The same backbone; its ``sha256`` still names the checkpoint.
    """
    # On the host: no program to compile for each shape.
    weights = jax.tree.map(
        lambda w: jnp.asarray(np.asarray(w).astype(dtype)), backbone.weights
    )
    return dataclasses.replace(backbone, weights=weights)


def normalise(
    backbone: Backbone, images: Num[Array | np.ndarray, "*batch h w 3"]
) -> Float[Array, "*batch h w 3"]:
    """Returns ``(images - offset) / scale``, in pure JAX, for use inside jit.

    Args:
      backbone: The network whose convention is followed.
      images: RGB, 0 to 255, of the right size already.
    """
    dtype = images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else jnp.float32
    shape = (1,) * (images.ndim - 1) + (3,)
    offset = jnp.asarray(backbone.offset, dtype).reshape(shape)
    scale = jnp.asarray(backbone.scale, dtype).reshape(shape)
    return (jnp.asarray(images, dtype) - offset) / scale


def preprocess(backbone: Backbone, images: Images) -> Float[np.ndarray, "n _h _w 3"]:
    """Resizes images on the host and normalises them for a backbone.

    Args:
      backbone: The network to prepare for.
      images: One RGB image ``(h, w, 3)``, a batch ``(n, h, w, 3)``, or a sequence of
        images of differing sizes; 0 to 255, unsigned 8-bit or floating.

    Returns:
      A float32 batch of the backbone's ``image_size``. Images of that size already are
      not resampled; 8-bit images are resized with Pillow's 8-bit arithmetic, others in
      float32.

    Raises:
      ValueError: If an image is not ``(h, w, 3)`` with at least one pixel, or has a
        value that is NaN or infinite.
    """
    single = isinstance(images, (np.ndarray, jax.Array)) and images.ndim == 3
    each = [images] if single else images
    batch = [resize(np.asarray(image), size=backbone.image_size) for image in each]
    if not batch:
        return np.zeros((0, *backbone.image_size, 3), np.float32)
    bad = [i for i, one in enumerate(batch) if not np.isfinite(one).all()]
    if bad:
        raise ValueError(f"image {bad[0]} has pixels that are NaN or infinite")
    h, w = backbone.image_size
    # Whole rows at a time: NumPy is slow along an axis of three.
    offset, scale = (
        np.tile(np.asarray(rgb, np.float32), w)
        for rgb in (backbone.offset, backbone.scale)
    )
    rows = np.stack(batch).astype(np.float32).reshape(-1, h, 3 * w)
    return ((rows - offset) / scale).reshape(-1, h, w, 3)


def resize(
    image: Num[np.ndarray, "..."], *, size: tuple[int, int] = (256, 256)
) -> Num[np.ndarray, "_h _w c"]:
    """Resizes one image with Pillow's antialiased bilinear filter.

    Args:
      image: RGB, 0 to 255.
      size: Height and width wanted.

    Returns:
      The image itself where the size already fits; else an image of the same dtype
      for unsigned 8-bit input, of float32 for any other.

    Raises:
      ValueError: If the image is not ``(h, w, 3)`` with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image must have shape (height, width, 3), got {image.shape}"
        )
    if image.shape[:2] == tuple(size):
        return image
    target = (size[1], size[0])
    if image.dtype == np.uint8:
        # Columns first, whatever the version of Pillow: it rounds in between.
        resized = Image.fromarray(image)
        for part in ((size[1], image.shape[0]), target):
            resized = resized.resize(part, Image.Resampling.BILINEAR)
        return np.asarray(resized)
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
            target, Image.Resampling.BILINEAR
        )
        for c in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)
