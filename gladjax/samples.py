"""Samples as a fit takes them: checked, and where they lie.

Samples that fit on the device go there once and stay; larger ones, and memory-mapped
files, stay on the host and are read a slice at a time. Samples of an unusual scale are
multiplied by a power of two, which changes no digit, so that the fourth powers in the
shrinkage stay in the range of float32.

Notation: ``n`` samples, ``d`` features.

Differs from the reference in: nothing.

Reference: there is none.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gladjax import devices, estimation, programs
from gladjax.assign import Coordinates, coordinates
from gladjax.mixture import AnyArray, room

RESIDENT = 4 << 30  # Bytes of samples, at most, that are put on a device.
SLICE = 1 << 24  # Numbers of a slice of streamed samples.
FEW = 4096  # Samples, at least, that coordinates are taken from.
USUAL = 30  # Binary exponents of the spread that need no scaling.
LARGEST = 100  # Beyond these, variances leave the range of float32.


class Samples(NamedTuple):
    """Samples of one layer, ready for a fit.

    Attributes:
      features: The samples, on the device or on the host.
      used: Which of them count.
      floor: Variance that stands in for 0 (R3).
      axes: Leading coordinates of their bounds.
      exponent: They are to be multiplied by ``2^exponent``; 0 where they are resident.
      scaled: The exponent that was applied, whatever the form.
    """

    features: Float[AnyArray, "n d"]
    used: Bool[AnyArray, " n"]
    floor: Float[Array, ""]
    axes: Coordinates
    exponent: int
    scaled: int

    @property
    def resident(self) -> bool:
        """Whether the samples are on the device."""
        return isinstance(self.features, jax.Array)


def checked(features: AnyArray | list, valid: AnyArray | None) -> AnyArray:
    """Returns samples as an array of floating-point numbers.

    Args:
      features: An array or a nested list; integers, float16 and bfloat16 become
        float32, float64 too unless JAX computes in it.
      valid: Samples that count, or None.

    Returns:
      The samples, where they were.

    Raises:
      ValueError: If they are not numbers, or not of shape ``(n, d)`` with ``d > 0``, or
        none counts.
    """
    devices.check_process()
    if not isinstance(features, np.ndarray | jax.Array):
        features = np.asarray(features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be of shape (n, d), not {features.shape}")
    if valid is not None and valid.shape != features.shape[:1]:
        raise ValueError(
            f"valid must be of shape {features.shape[:1]}, not {valid.shape}"
        )
    if not jnp.issubdtype(features.dtype, jnp.number) or jnp.issubdtype(
        features.dtype, jnp.complexfloating
    ):
        raise ValueError(f"features must be real numbers, not {features.dtype}")
    if isinstance(valid, np.ndarray) and not valid.any():
        raise ValueError("no sample is valid")
    wide = jax.dtypes.canonicalize_dtype(np.float64)
    dtype = wide if features.dtype == np.float64 else np.dtype(np.float32)
    return features if features.dtype == dtype else features.astype(dtype)


def gather(features: AnyArray, valid: AnyArray | None) -> Samples:
    """Prepares samples for a fit.

    Args:
      features: From `checked`.
      valid: Samples that count; all by default.

    Returns:
      The samples, on the device if they fit there.

    Raises:
      ValueError: If a sample that counts is not finite, or the scale is beyond float32.
    """
    n = features.shape[0]
    used = np.ones(n, bool) if valid is None else valid
    stays = isinstance(features, np.memmap) or features.nbytes > RESIDENT
    if stays and not isinstance(features, jax.Array):
        used = np.asarray(used)
        largest = max(float(_largest(x, u)) for x, u in slices(features, used))
        exponent = _exponent(largest)
        floor = _streamed_floor(features, used, exponent)
        some, counted = few(features, used)
        leading = axes(np.ldexp(some, exponent), counted)
        return Samples(features, used, floor, leading, exponent, exponent)
    features, used = jnp.asarray(features), jnp.asarray(used)
    exponent = _exponent(float(_largest(features, used)))
    if exponent:
        features = jnp.ldexp(features, exponent)
    floor, leading = _summary(features, used)
    return Samples(features, used, floor, leading, 0, exponent)


def slices(
    features: np.ndarray, used: np.ndarray, *, size: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields slices of samples of one size, the last one padded with unused ones."""
    size = size or max(devices.sizes().chunk, SLICE // features.shape[1])
    size = min(size, max(len(features), 1))
    for first in range(0, len(features), size):
        x = np.asarray(features[first : first + size])
        missing = size - len(x)
        yield (
            np.pad(x, ((0, missing), (0, 0))),
            np.pad(used[first : first + size], (0, missing)),
        )


@programs.Program
def _largest(features: Array, used: Array) -> Array:
    """Returns the largest distance of a coordinate from that of the first sample."""
    origin = features[jnp.argmax(used)]
    far = jnp.where(used[:, None], jnp.abs(features - origin[None, :]), 0)
    wrong = jnp.any(jnp.where(used[:, None], ~jnp.isfinite(features), False))
    return jnp.where(wrong, jnp.inf, jnp.max(far, initial=0))


def _exponent(largest: float) -> int:
    if not np.isfinite(largest):
        raise ValueError("features of samples that count must be finite")
    power = int(np.frexp(largest)[1]) if largest > 0 else 0
    if abs(power) > LARGEST // 2:
        raise ValueError(
            f"features spread over {largest:g}: their variances are beyond the range "
            "of float32; divide them by a constant first"
        )
    return 0 if abs(power) <= USUAL // 2 else -power


@partial(programs.Program, alone=True)
def _summary(features: Array, used: Array) -> tuple[Array, Coordinates]:
    floor = estimation.floor_of(features, used)
    return floor, coordinates(features, valid=used)


def _streamed_floor(features: np.ndarray, used: np.ndarray, exponent: int) -> Array:
    d = features.shape[1]
    count, total, square = 0, np.zeros(d), np.zeros(d)
    shift = None
    for x, u in slices(features, used):
        part = np.ldexp(x[u].astype(np.float64), exponent)
        if len(part):
            shift = part[0] if shift is None else shift
            count += len(part)
            total += (part - shift).sum(axis=0)
            square += np.square(part - shift).sum(axis=0)
    variance = np.maximum(square / max(count, 1) - (total / max(count, 1)) ** 2, 0)
    tiny = np.finfo(features.dtype).tiny
    floor = max(estimation.FLOOR * float(variance.mean()), 1e6 * tiny)
    return jnp.asarray(floor, features.dtype)


@partial(programs.Program, static=("ranks",), alone=True)
def axes(
    features: Array,
    used: Array | None = None,
    *,
    ranks: tuple[int, int] | None = None,
) -> Coordinates:
    """Returns the leading coordinates of samples, by one program for each shape.

    Args:
      features: Samples.
      used: Which of them count; all by default.
      ranks: Numbers of coordinates, see `gladjax.assign.coordinates`.
    """
    return coordinates(features, valid=used, ranks=ranks)


def few(
    features: AnyArray, used: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "f d"], Bool[np.ndarray, " f"]]:
    """Returns some of the samples that count, evenly spaced: enough for `axes`.

    Args:
      features: Samples, which may be on disk.
      used: Which of them count.

    Returns:
      The samples, with zeros after them up to one of few sizes, and which they are.
    """
    index = np.flatnonzero(used)
    found = np.asarray(features[index[:: max(1, len(index) // FEW)]])
    size = room(len(found))
    counted = np.arange(size) < len(found)
    return np.pad(found, ((0, size - len(found)), (0, 0))), counted
