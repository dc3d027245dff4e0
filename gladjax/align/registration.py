"""Registration of images on a reference: the public functions.

`register` aligns one image, `register_batch` many with one compilation; both return the
motion from reference to image and an `AlignInfo` that says whether to trust it. A
registration that fails is the identity, and says so: an image that cannot be aligned is
looked at as it is.

Notation: ``T`` is the motion, ``warped(p) = image(T p)``.

Differs from the reference in: what `multiscale` and `inverse_compositional` list.

Reference: Briand, Facciolo, Sanchez. "Improvements of the Inverse Compositional
Algorithm for Parametric Motion Estimation". IPOL 8, 2018.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

from gladjax import programs
from gladjax.align import multiscale, pyramid, sampling, transform
from gladjax.align.plan import DEFAULTS, AlignInfo, Options, Plan
from gladjax.align.robust import ErrorFunction
from gladjax.align.robust import find as find_error

__all__ = ["register", "register_batch"]

AnyArray = Array | np.ndarray
Matrix = Float[Array, "3 3"]


@functools.partial(programs.Program, static=("plan",), alone=True)
def _register(
    reference: Array, mask: Array, images: Array, plan: Plan
) -> tuple[Array, AlignInfo]:
    """Returns motions and reports for a stack of images."""
    prepared = multiscale.prepare(reference, mask, plan)
    return jax.lax.map(
        lambda image: multiscale.align(prepared, image, plan),
        images,
        batch_size=plan.options.batch_size if plan.options.batch_size > 1 else None,
    )


def register(
    reference: Num[AnyArray, "h w *c"],
    image: Num[AnyArray, "_h _w *c"],
    *,
    motion: str = "euclidean",
    robust: str | ErrorFunction = "lorentzian",
    gradient: str = "farid5",
    coarse: bool = False,
    mask: Bool[AnyArray, "h w"] | None = None,
    options: Options = DEFAULTS,
) -> tuple[Matrix, AlignInfo]:
    """Returns the motion that aligns an image with a reference.

    Args:
      reference: Grey image or channels last, 0 to 255.
      image: The image; it may have another size.
      motion: translation, euclidean, similarity, affine or homography.
      robust: Name of an error function, or a function ``rho(s2, scale)``.
      gradient: central, hypomode, farid3 or farid5.
      coarse: Whether to search over all turns and large shifts first.
      mask: Pixels of the reference that count; all by default.
      options: Everything else.

    Returns:
      ``T`` with ``warped(p) = image(T p)``, ``p = (x, y, 1)`` in pixels of the
      reference, integers at pixel centres, ``T[2, 2] = 1``; and the report. Without
      texture, with values that are not finite, with too little overlap, or where the
      error has not become smaller, ``T`` is the identity and ``success`` is false.

    Raises:
      ValueError: If an option is unknown, or an image is smaller than 16 pixels.

    References:
      Briand et al., algorithm 4.

    Example:
      >>> y, x = jnp.meshgrid(jnp.arange(64.0), jnp.arange(64.0), indexing="ij")
      >>> blob = lambda cx: 200 * jnp.exp(-((x - cx) ** 2 + (y - 30) ** 2) / 200)
      >>> T, info = register(blob(30.0), blob(33.0), motion="translation")
      >>> print(T[0, 2].round(1), info.success)
      3.0 True
    """
    image = jnp.asarray(image)
    motions, info = register_batch(
        reference,
        image[None],
        motion=motion,
        robust=robust,
        gradient=gradient,
        coarse=coarse,
        mask=mask,
        options=options,
    )
    return motions[0], jax.tree.map(lambda leaf: leaf[0], info)


def register_batch(
    reference: Num[AnyArray, "h w *c"],
    images: Num[AnyArray, "n _h _w *c"],
    *,
    motion: str = "euclidean",
    robust: str | ErrorFunction = "lorentzian",
    gradient: str = "farid5",
    coarse: bool = False,
    mask: Bool[AnyArray, "h w"] | None = None,
    options: Options = DEFAULTS,
) -> tuple[Float[Array, "n 3 3"], AlignInfo]:
    """Returns the motions that align many images with one reference.

    One program serves all batches of one shape; images are refined one after another
    (or ``options.batch_size`` side by side), so that a slow one holds up no other.

    Args:
      reference: As for `register`.
      images: Images of one size.
      motion: As for `register`.
      robust: As for `register`.
      gradient: As for `register`.
      coarse: As for `register`.
      mask: As for `register`.
      options: As for `register`.

    Returns:
      What `register` returns, with a leading axis.

    Raises:
      ValueError: As `register`.
    """
    reference, images = sampling.as_float(reference), sampling.as_float(images)
    (h, w), (a, b) = reference.shape[:2], images.shape[1:3]
    shapes = ((h, w), (a, b))
    if min(*shapes[0], *shapes[1]) < 16:
        raise ValueError(f"images must have 16 pixels a side, got shapes {shapes}")
    transform.generators(motion)
    plan = Plan(
        motion=motion,
        error=find_error(robust),
        scheme=pyramid.find(gradient),
        coarse=coarse,
        options=options,
        shapes=shapes,
    )
    counted = jnp.ones(shapes[0], bool) if mask is None else jnp.asarray(mask)
    return _register(reference, counted, images, plan)
