"""The whole of scoring as one function of an 8-bit image."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from gladjax import align, calibrate
from gladjax import backbone as backbones
from gladjax.detector import Detector, inference

T = TypeVar("T")
Answer = dict[str, Array]
Maps = Callable[[Float[Array, "1 h w 3"]], dict[str, Float[Array, "1 _h _w"]]]


def build(
    detector: Detector, maps: Maps, *, rate: float
) -> Callable[[Num[Array, "h w 3"]], Answer]:
    """Returns what `gladjax.detector.score` does, and the decision, as one function.

    Its stages are those of `score`, each of them a program of its own there. Barriers
    keep them apart here: folded into each other they would round otherwise, and take
    longer to compile.

    Args:
      detector: The detector.
      maps: From a preprocessed image to the log-probability maps of all layers.
      rate: False-positive rate of the decision.

    Returns:
      A function of an image of the backbone's size, to be traced.
    """
    size = detector.backbone.image_size
    settings, decide = detector.settings, _decision(detector, rate)
    how = {"motion": settings.motion, "coarse": settings.coarse}

    def answer(image: Num[Array, "h w 3"]) -> Answer:
        seen = opaque(image).astype(jnp.float32)
        counted, motion = opaque(detector.mask), jnp.eye(3, dtype=seen.dtype)
        if detector.reference is not None:
            reference, every, seen = opaque(
                (detector.reference, np.ones(size, bool), seen)
            )
            motion = opaque(align.register(reference, seen, mask=every, **how)[0])
            seen, valid = opaque(align.warp(seen, motion, size))
            counted &= valid
        batch = opaque(backbones.normalise(detector.backbone, seen)[None])
        found = {name: one[0] for name, one in opaque(maps(batch)).items()}
        _, mask, score = inference.read_off(found, counted, settings.quantile)
        heat = opaque(inference.located(found, mask, size, settings.sigma))
        heat = inference.placed(detector, motion, heat)
        return {"score": score, "heat_map": heat, **decide(score)}

    return answer


def opaque(tree: T) -> T:
    """Returns arrays that a compiler must take for unknown ones.

    Args:
      tree: Arrays.
    """
    return jax.lax.optimization_barrier(jax.tree.map(jnp.asarray, tree))


def _decision(detector: Detector, rate: float) -> Callable[[Float[Array, ""]], Answer]:
    """Returns what `gladjax.calibrate.decide` does of a score, as a function."""
    limit = calibrate.decide(detector.calibration, math.nan, rate=rate).threshold
    if detector.calibration is None or len(detector.calibration) == 0:
        return lambda _: {}
    scores = np.asarray(detector.calibration)
    known = jnp.asarray(scores, jnp.float32)

    def decide(score: Float[Array, ""]) -> Answer:
        above = jnp.sum((known >= score).astype(jnp.float32))
        p = (1 + above) / (len(scores) + 1)
        found = {"p_value": jnp.where(jnp.isnan(score), jnp.nan, p)}
        if limit is not None:
            found["is_anomalous"] = score > limit
        return found

    return decide
