"""DRAEM: repair simulated anomalies, and learn where the repair changed something.

Two networks are trained together on normal images with simulated anomalies. The first,
without skips, is asked for the image *before* the anomaly (squared error and structural
similarity). The second sees the given and the repaired image and is asked for the
anomaly's mask (focal loss). On a test image its output is the anomaly map; the score is
the map's maximum after averaging over 21 x 21 pixels.

This module is trained on images, not on feature maps, and needs no backbone.

Notation: ``m`` training images, ``h w`` their size.

Differs from the reference in:
1. Anomalies: see `simulate`; textures come from the training images.
2. Normalisation in groups, smaller networks by default, and a single logit instead of
   two classes.
3. Steps are counted, not epochs, and the default number is what a CPU can bear: 700
   epochs of the reference are about 20,000 steps for 200 images.
4. No rotation of the training images, which the reference uses for some categories.

Reference: Zavrtanik, Kristan, Skocaj. "DRAEM: A Discriminatively Trained Reconstruction
Embedding for Surface Anomaly Detection". ICCV 2021.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from gladjax.baselines import grids, simulate, training, unet
from gladjax.pytree import pytree, static


@pytree
class DraemModel:
    """The two networks of DRAEM.

    Attributes:
      repair: Parameters of the network that removes anomalies.
      detect: Parameters of the network that marks them.
      losses: Training loss at each step.
      window: Side of the window that the score averages over.
    """

    repair: unet.Params
    detect: unet.Params
    losses: Float[Array, " _s"]
    window: int = static()


@dataclass(frozen=True)
class Training:
    """How the networks are built and trained.

    Attributes:
      widths: Channels of the first level of the repairing and the detecting network;
        the reference has (128, 64).
      depth: Halvings of both.
      num_steps: Steps of Adam.
      batch_size: Images per step.
      learning_rate: Largest rate.
    """

    widths: tuple[int, int] = (16, 16)
    depth: int = 4
    num_steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 1e-3


def fit(
    key: PRNGKeyArray,
    images: Num[Array | np.ndarray, "m h w 3"],
    *,
    valid: Bool[Array | np.ndarray, "_m _h _w"] | None = None,
    settings: Training = Training(),
    window: int = 21,
) -> DraemModel:
    """Trains both networks.

    Args:
      key: Draws parameters, batches and anomalies.
      images: Training images, RGB, 0 to 255, sides divisible by ``2 ** depth``.
      valid: Pixels that may be used; others are set to 0 and asked nothing of.
      settings: How the networks are built and trained.
      window: Side of the window that the score averages over, odd.

    Returns:
      The model.

    Raises:
      ValueError: If the images or settings do not fit together.
      FloatingPointError: If training diverges.

    Example:
      >>> import numpy as np
      >>> images = np.full((4, 16, 16, 3), 128, np.uint8)
      >>> settings = Training(widths=(2, 2), depth=1, num_steps=2, batch_size=2)
      >>> model = fit(jax.random.key(0), images, settings=settings, window=3)
      >>> heat, scores = score(model, images)
      >>> print(heat.shape, scores.shape)
      (4, 16, 16) (4,)
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, got {window}")
    if min(*settings.widths, settings.batch_size, settings.depth) < 1:
        raise ValueError(f"every number must be positive: {settings}")
    training.optimizer(settings.num_steps, learning_rate=settings.learning_rate)
    m, h, w, _ = images.shape
    if m == 0 or h % 2**settings.depth or w % 2**settings.depth:
        raise ValueError(
            f"images {images.shape} need sides divisible by {2**settings.depth}"
        )
    if valid is not None and valid.shape != (m, h, w):
        raise ValueError(f"valid has shape {valid.shape}, images {images.shape}")
    x = _unit_range(jnp.asarray(images))
    inside = jnp.ones((m, h, w), bool) if valid is None else jnp.asarray(valid)
    x = jnp.where(inside[..., None], x, 0)
    first, second, loop = jax.random.split(key, 3)
    options = {"depth": settings.depth, "dtype": x.dtype}
    params = (
        unet.init(first, (3, 3), width=settings.widths[0], skip=False, **options),
        unet.init(second, (6, 1), width=settings.widths[1], **options),
    )

    params, losses = training.minimize(
        loop,
        params,
        (x, inside),
        loss=_loss,
        settings=settings,
        num_steps=settings.num_steps,
        learning_rate=settings.learning_rate,
    )
    return DraemModel(*params, losses=jnp.asarray(losses), window=window)


@jax.jit
def score(
    model: DraemModel, images: Num[Array | np.ndarray, "n h w 3"]
) -> tuple[Float[Array, "n h w"], Float[Array, " n"]]:
    """Scores test images by the probability of an anomaly at each pixel.

    Args:
      model: The model.
      images: Test images, RGB, 0 to 255, sides divisible by ``2 ** depth``.

    Returns:
      Maps of probabilities, and the largest average over a window; higher is more
      anomalous.

    Raises:
      ValueError: If a side is not divisible.
    """

    def one(image: Array) -> tuple[Array, Array]:
        _, logits = run((model.repair, model.detect), image[None])
        heat = jax.nn.sigmoid(logits)
        window = (1, model.window, model.window)
        zero = jnp.zeros((), heat.dtype)
        total = jax.lax.reduce_window(
            heat, zero, jax.lax.add, window, (1, 1, 1), "SAME"
        )
        return heat[0], jnp.max(total) / model.window**2

    return jax.lax.map(one, _unit_range(jnp.asarray(images)))


def run(
    params: tuple[unet.Params, unet.Params], images: Float[Array, "n h w 3"]
) -> tuple[Float[Array, "n h w 3"], Float[Array, "n h w"]]:
    """Repairs images and marks what the repair changed.

    Args:
      params: Parameters of the repairing and of the detecting network.
      images: RGB images in [0, 1].

    Returns:
      The repaired images, and a logit of an anomaly at each pixel.
    """
    repaired = unet.apply(params[0], images)
    both = jnp.concatenate([repaired, images], axis=-1)
    return repaired, unet.apply(params[1], both)[..., 0]


def ssim(
    a: Float[Array, "n h w c"], b: Float[Array, "n h w c"]
) -> Float[Array, "n h w"]:
    """Returns the structural similarity of two images around each pixel.

    Args:
      a: Images in [0, 1].
      b: Images in [0, 1].

    Returns:
      Similarity, at most 1, mean over channels; the window is a Gaussian of sigma 1.5.

    References:
      Wang, Bovik, Sheikh, Simoncelli. "Image Quality Assessment: From Error Visibility
      to Structural Similarity". IEEE Trans. Image Processing 13(4), 2004.
    """
    rows = jnp.asarray(grids.gaussian_matrix(a.shape[1], 1.5), a.dtype)
    columns = jnp.asarray(grids.gaussian_matrix(a.shape[2], 1.5), a.dtype)

    def blur(x: Array) -> Array:
        return jnp.einsum("ih,nhwc,jw->nijc", rows, x, columns, precision=grids.HIGHEST)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return jnp.mean(top / bottom, axis=-1)


def focal(
    logits: Float[Array, "n h w"], mask: Float[Array, "n h w"]
) -> Float[Array, "n h w"]:
    """Returns the focal loss, ``-(1 - p)^2 log p`` of the right answer's ``p``.

    Args:
      logits: Logit of an anomaly.
      mask: 1 at anomalies, 0 elsewhere.
    """
    log_p = jax.nn.log_sigmoid(jnp.where(mask > 0, logits, -logits))
    return -((1 - jnp.exp(log_p)) ** 2) * log_p


def _loss(
    params: tuple, data: tuple[Array, Array], key: PRNGKeyArray, settings: Training
) -> Array:
    """Returns the loss on images and anomalies drawn by the key."""
    rows_key, other_key, make_key = jax.random.split(key, 3)
    count, m = settings.batch_size, data[0].shape[0]
    rows = jax.random.randint(rows_key, (count,), 0, m)
    others = jax.random.randint(other_key, (count,), 0, m)
    images, inside = data[0][rows], data[1][rows]
    keys = jax.random.split(make_key, count)
    given, mask = jax.vmap(simulate.anomaly)(keys, images, data[0][others])
    given = jnp.where(inside[..., None], given, 0)
    repaired, logits = run(params, given)
    use = inside.astype(images.dtype)
    square = _mean(jnp.mean((repaired - images) ** 2, axis=-1), use)
    return (
        square
        + _mean(1 - ssim(repaired, images), use)
        + _mean(focal(logits, mask), use)
    )


def _mean(values: Array, use: Array) -> Array:
    """Returns the mean over the pixels in use."""
    return jnp.sum(values * use) / jnp.maximum(jnp.sum(use), 1)


def _unit_range(images: Array) -> Array:
    """Brings 0 to 255 to [0, 1], in the default float type for integers."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        images = images.astype(jnp.float32)
    return images / 255
