"""The formats of an exported detector."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from gladjax import devices
from gladjax.detector import Detector, inference
from gladjax.export import pixels, program
from gladjax.export.program import Answer

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Devices that a StableHLO program is for."""


def stablehlo(
    detector: Detector,
    *,
    shape: tuple[int, int] | None = None,
    rate: float = 0.05,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Returns a detector as one StableHLO program.

    Work is cut by the sizes of a CPU on every platform. A program for one platform and
    one shape rounds as `gladjax.detector.score` does on it, bit by bit. Others go
    through JAX's refinement of shapes, which folds constants: a registration that ends
    at its limit of steps then ends elsewhere.

    Args:
      detector: The detector.
      shape: Height and width of the images; any by default.
      rate: False-positive rate of the decision, in (0, 1).
      platforms: Devices that it is for.

    Returns:
      What ``jax.export.deserialize`` reads; its ``call`` takes an image.

    Raises:
      ValueError: If the shape or the rate is none.
    """
    check_shape(shape)
    size = tuple(detector.backbone.image_size)

    def maps(batch: Float[Array, "1 h w 3"]) -> tuple[Float[Array, "1 _h _w"], ...]:
        backbone, layers = program.opaque((detector.backbone, detector.layers))
        return inference.run(backbone, layers, batch)

    answer = program.build(detector, maps, rate=rate)

    def gladjax_detector(image: UInt8[Array, "_h _w 3"]) -> Answer:
        return answer(pixels.resize(image, size))

    sides = jax.export.symbolic_shape("height, width") if shape is None else shape
    with devices.lowering("cpu"):
        exported = jax.export.export(jax.jit(gladjax_detector), platforms=platforms)(
            jax.ShapeDtypeStruct((*sides, 3), jnp.uint8)
        )
    return bytes(exported.serialize())


def check_shape(shape: tuple[int, int] | None) -> None:
    """Refuses what is no height and width of an image.

    Args:
      shape: Height and width, or None for any.

    Raises:
      ValueError: If one is below 1.
    """
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f"shape must be a height and a width, not {shape!r:.40}")
