"""Pillow's antialiased bilinear resize of 8-bit images, as a program.

Pillow resizes along one axis after the other, columns first, and rounds to 8 bits in
between. A pixel is a sum over the pixels of its window with weights that are whole
numbers of ``2^-22``. Here they come from integers alone, so that the result is
Pillow's, level for level, on every device.

Notation: ``n`` pixels of an axis, ``m`` of the new one, ``t`` the place in a window.
A weight is ``2 max(n, m) - |(2 x + 1) m - (2 i + 1) n|`` over the sum of those of its
window, for pixel ``x`` and new pixel ``i``.

Differs from the reference in: (1) Pillow computes weights in floating point; the last
of the 22 bits may differ where a weight lies half-way between two.

Reference: Pillow, ``src/libImaging/Resample.c``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

BITS = 22  # Of a weight.


def resize(
    image: UInt8[Array, "h w 3"], size: tuple[int, int]
) -> UInt8[Array, "_h _w 3"]:
    """Returns what `gladjax.backbone.resize` makes of an 8-bit image.

    Args:
      image: The image; its sides may be symbolic.
      size: Height and width wanted.

    Returns:
      Levels, 0 to 255.
    """
    columns = _along(jnp.swapaxes(image, 0, 1), size[1])
    return _along(jnp.swapaxes(columns, 0, 1), size[0])


def _along(image: UInt8[Array, "n _w 3"], m: int) -> UInt8[Array, "m _w 3"]:
    """Resizes along the leading axis."""
    n = jnp.asarray(image.shape[0], jnp.int32)
    wide, new = jnp.maximum(n, m), 2 * jnp.arange(m, dtype=jnp.int32) + 1
    first = jnp.maximum((new * n - 2 * wide + m) // (2 * m), 0)
    last = jnp.minimum((new * n + 2 * wide + m) // (2 * m), n)

    def share(t: Array) -> Int[Array, " m"]:
        x = first + t
        value = 2 * wide - jnp.abs((2 * x + 1) * m - new * n)
        return jnp.where(x < last, jnp.maximum(value, 0), 0)

    count = jnp.max(last - first)
    zero = jnp.zeros((m,), jnp.int32)
    total = jax.lax.fori_loop(0, count, lambda t, sum_: sum_ + share(t), zero)

    def add(t: Array, sums: Array) -> Array:
        weight = _quotient(share(t), total)[:, None, None]
        pixels = image.at[first + t].get(mode="clip")
        return sums + weight * pixels.astype(jnp.int32)

    half = jnp.full((m, *image.shape[1:]), 1 << (BITS - 1), jnp.int32)
    return (jax.lax.fori_loop(0, count, add, half) >> BITS).astype(jnp.uint8)


def _quotient(part: Int[Array, " m"], whole: Int[Array, " m"]) -> Int[Array, " m"]:
    """Returns ``2^22 part / whole``, rounded, by long division: no product is large."""
    value = jnp.zeros_like(part)
    for _ in range(BITS // 2):
        part = part << 2
        value = (value << 2) + part // whole
        part = part % whole
    return value + (2 * part >= whole).astype(jnp.int32)
