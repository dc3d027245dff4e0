"""The formats of an exported detector."""

import importlib
import importlib.util
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from gladjax import devices, features
from gladjax.detector import Detector, inference, tiles
from gladjax.export import graph, pixels, program, static
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
      ValueError: If the shape or the rate is none, the detector has tiles, or
        ``flatbuffers`` is not installed.
    """
    check(detector, shape)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError(
            'flatbuffers is not installed: pip install "gladjax[stablehlo]"'
        )
    size = detector.backbone.image_size

    def maps(batch: Float[Array, "1 h w 3"]) -> dict[str, Float[Array, "1 _h _w"]]:
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


def check(detector: Detector, shape: tuple[int, int] | None) -> None:
    """Refuses detectors with tiles, and what is no height and width of an image.

    Args:
      detector: The detector.
      shape: Height and width, or None for any.

    Raises:
      ValueError: If it looks at images in tiles, or a side is below 1.
    """
    if not tiles.plan(detector.backbone, detector.settings).whole:
        raise ValueError(
            "a model that looks at images in tiles cannot be exported: fit one without "
            "--tiles"
        )
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f"shape must be a height and a width, not {shape!r:.40}")


def onnx(
    detector: Detector, *, shape: tuple[int, int] | None = None, rate: float = 0.05
) -> bytes:
    """Returns a detector as one ONNX model.

    The mixtures are in the form of `gladjax.export.static`, without a search: the model
    is larger and slower than the StableHLO program where many components are active.

    Args:
      detector: The detector, one that does not align.
      shape: Height and width of the images; any by default.
      rate: False-positive rate of the decision, in (0, 1).

    Returns:
      What ``onnxruntime.InferenceSession`` reads. Its input is ``image``, the outputs
      have the names of `gladjax.export`.

    Raises:
      ValueError: If the shape or the rate is none, the detector aligns or has tiles,
        the model would be larger than an ONNX file can be, or ``jax2onnx`` is not
        installed.
    """
    check(detector, shape)
    if detector.reference is not None:
        raise ValueError(
            "a model that aligns cannot be written as ONNX: export it as StableHLO, or "
            "fit one without alignment"
        )
    try:
        converter, library = (importlib.import_module(n) for n in ("jax2onnx", "onnx"))
    except ImportError as error:
        raise ValueError(
            'jax2onnx is not installed: pip install "gladjax[onnx]"'
        ) from error
    layers = {name: static.prepare(layer) for name, layer in detector.layers.items()}

    def maps(batch: Float[Array, "1 h w 3"]) -> dict[str, Float[Array, "1 _h _w"]]:
        found = features.extract(detector.backbone, batch)
        return {
            name: static.log_prob(
                one, found[name].reshape(-1, found[name].shape[-1])
            ).reshape(found[name].shape[:3])
            for name, one in layers.items()
        }

    answer = program.build(detector, maps, rate=rate)
    size = detector.backbone.image_size
    blank = jax.ShapeDtypeStruct((*size, 3), jnp.float32)
    names = list(jax.eval_shape(answer, blank))

    def ordered(levels: Float[Array, "h w 3"]) -> tuple[Array, ...]:
        found = answer(levels)
        return tuple(found[name] for name in names)

    with devices.lowering("onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the converter's own types.
        model = converter.to_onnx(
            ordered,
            [blank],
            input_names=["levels"],
            output_names=names,
        )
    return graph.whole(library, model, shape, size)
