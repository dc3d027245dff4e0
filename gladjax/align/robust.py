"""Error functions: how much a pixel that disagrees may count.

Each function ``rho(s2, scale)`` takes squared differences of grey levels. Iteratively
reweighted least squares needs only its derivative by ``s2``, the weight of a pixel,
which `weight` finds by differentiation; a new error function is one line.

Notation: ``s2`` is the squared difference, ``scale`` the paper's lambda: differences
well above it are outliers.

Differs from the reference in: nothing.

Reference: Sanchez. "The Inverse Compositional Algorithm for Parametric Registration".
IPOL 6, 2016, table 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

__all__ = [
    "ERRORS",
    "ErrorFunction",
    "charbonnier",
    "find",
    "geman_mcclure",
    "lorentzian",
    "quadratic",
    "truncated_quadratic",
    "weight",
]

ErrorFunction = Callable[[Array, Array], Array]
Squares = Float[Array, " n"]
Scale = Float[Array, ""]


def quadratic(s2: Squares, scale: Scale) -> Squares:
    """Returns ``s2``: least squares, for comparison; the scale has no effect."""
    del scale
    return s2


def truncated_quadratic(s2: Squares, scale: Scale) -> Squares:
    """Returns ``min(s2, scale^2)``: outliers do not count at all."""
    return jnp.minimum(s2, jnp.square(scale))


def geman_mcclure(s2: Squares, scale: Scale) -> Squares:
    """Returns ``s2 / (s2 + scale^2)``, written so that its derivative is exact."""
    return 1 - jnp.square(scale) / (s2 + jnp.square(scale))


def lorentzian(s2: Squares, scale: Scale) -> Squares:
    """Returns ``log(1 + s2 / scale^2)``, the default."""
    return jnp.log1p(s2 / jnp.square(scale))


def charbonnier(s2: Squares, scale: Scale) -> Squares:
    """Returns ``2 sqrt(s2 + scale^2)``, convex, nearly the absolute difference."""
    return 2 * jnp.sqrt(s2 + jnp.square(scale))


ERRORS: dict[str, ErrorFunction] = {
    "quadratic": quadratic,
    "truncated_quadratic": truncated_quadratic,
    "geman_mcclure": geman_mcclure,
    "lorentzian": lorentzian,
    "charbonnier": charbonnier,
}


def find(robust: str | ErrorFunction) -> ErrorFunction:
    """Returns an error function by name, or a function as it is.

    Raises:
      ValueError: If there is no such function; the message lists them.
    """
    if callable(robust):
        return robust
    if robust not in ERRORS:
        raise ValueError(f"robust must be one of {', '.join(ERRORS)}, got {robust!r}")
    return ERRORS[robust]


def weight(rho: ErrorFunction, s2: Squares, scale: Scale) -> Squares:
    """Returns the weight of each pixel, the derivative of ``rho`` by ``s2``."""
    return jax.grad(lambda s: jnp.sum(rho(s, scale)))(s2)
