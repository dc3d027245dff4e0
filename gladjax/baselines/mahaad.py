"""MahaAD: one Gaussian per layer over spatially averaged features.

Every layer's feature map is averaged over its cells, which leaves one vector per image.
A multivariate Gaussian with the shrunk covariance of Ledoit and Wolf is fitted to the
training vectors of each layer, and an image's score is the sum over layers of its
Mahalanobis distances. No parameter is learned and nothing depends on the place.

Notation: ``m`` training images, ``d`` features of a layer, ``rho`` the shrinkage
intensity, ``W`` a whitening matrix with ``W' W`` the inverse covariance.

Differs from the reference in:
1. The layers are those of the feature maps given; the paper takes the outputs of all
   stages of an EfficientNet.
2. The paper has no anomaly map. Ours is the same distance, evaluated on the feature of
   each cell instead of on the average; it orders cells, its values are no distances of
   averages.
3. The variants with principal or negated principal components are left out.

Reference: Rippel, Mertens, Merhof. "Modeling the Distribution of Normal Data in
Pre-Trained Deep Features for Anomaly Detection". ICPR 2020. Shrinkage: Ledoit, Wolf.
"A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices". Journal of
Multivariate Analysis 88, 2004.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gladjax.baselines import grids
from gladjax.pytree import pytree, static


@pytree
class MahaADModel:
    """The Gaussians of MahaAD.

    Attributes:
      means: For each layer the mean, ``(d,)``.
      whiteners: For each layer a matrix ``W``, ``(d, d)``; the distance of ``x`` is the
        norm of ``W (x - mean)``.
      layers: Names of the layers, finest first.
      image_size: Height and width of the maps.
    """

    means: Mapping[str, Float[Array, " _d"]]
    whiteners: Mapping[str, Float[Array, "_d _d"]]
    layers: tuple[str, ...] = static()
    image_size: tuple[int, int] = static()


def fit(
    key: PRNGKeyArray | None,
    features: grids.FeatureMaps,
    *,
    valid: grids.Valid | None = None,
    layers: Sequence[str] | None = None,
    image_size: grids.Size | None = None,
) -> MahaADModel:
    """Fits one Gaussian with a Ledoit-Wolf covariance per layer.

    Args:
      key: Ignored; the method has no randomness. Kept for the common interface.
      features: Feature maps of the training images, ``(m, h, w, d)`` each.
      valid: Cells of the finest grid that may be used; others never enter an average.
        An image without a valid cell in a layer is left out of that layer.
      layers: Names of the layers to use, finest first; None means all.
      image_size: Height and width of the maps that `score` returns; None means four
        times the finest grid.

    Returns:
      The model.

    Raises:
      ValueError: If the feature maps or options do not fit together, or fewer than two
        images have a valid cell in some layer.

    Example:
      >>> import jax, numpy as np
      >>> rng = np.random.default_rng(0)
      >>> train = {"layer1": rng.normal(size=(30, 8, 8, 3)).astype(np.float32)}
      >>> model = fit(jax.random.key(0), train)
      >>> heat, scores = score(model, {"layer1": train["layer1"][:5] + 2})
      >>> print(heat.shape, scores.shape, bool(scores.min() > 20))
      (5, 32, 32) (5,) True
    """
    del key
    names = grids.select(features, layers)
    size = grids.image_size_or_default(image_size, grids.finest(features, names))
    masks = grids.coarsen(valid, features)
    means, whiteners = {}, {}
    for name in names:
        x = jnp.asarray(features[name])
        if masks is None:
            pooled = jnp.mean(x, axis=(1, 2))
        else:
            inside = masks[name]
            count = jnp.sum(inside, axis=(1, 2))
            total = jnp.sum(jnp.where(inside[..., None], x, 0), axis=(1, 2))
            pooled = (total / jnp.maximum(count, 1).astype(x.dtype)[:, None])[count > 0]
        if pooled.shape[0] < 2:
            raise ValueError(f"{name!r} has {pooled.shape[0]} usable images, needs 2")
        means[name] = jnp.mean(pooled, axis=0)
        whiteners[name] = _whitener(ledoit_wolf(pooled)[0])
    return MahaADModel(means, whiteners, names, size)


@jax.jit
def score(
    model: MahaADModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _H _W"], Float[Array, " n"]]:
    """Scores test images by the sum over layers of Mahalanobis distances.

    Args:
      model: The model.
      features: Feature maps of the test images, ``(n, h, w, d)`` each.

    Returns:
      Maps at the image's size (the distances of single cells, see the module's
      *Differs*), and one score per image; higher is more anomalous.

    Raises:
      ValueError: If a layer is missing or the grids do not fit.
    """
    names = grids.select(features, model.layers)

    def one(maps: Mapping[str, Array]) -> tuple[Array, Array]:
        total, heat = jnp.zeros((), maps[names[0]].dtype), 0
        for name in names:
            mean, whitener = model.means[name], model.whiteners[name]
            total = total + _distance(mean, whitener, jnp.mean(maps[name], axis=(0, 1)))
            cells = _distance(mean, whitener, maps[name])
            heat = heat + grids.heat_map(cells[None], image_size=model.image_size)[0]
        return jnp.asarray(heat), total

    maps = {name: jnp.asarray(features[name]) for name in names}
    return jax.lax.map(one, maps, batch_size=8)


def ledoit_wolf(
    samples: Float[Array, "m d"],
) -> tuple[Float[Array, "d d"], Float[Array, ""]]:
    """Estimates a covariance by the formula of Ledoit and Wolf.

    With ``S`` the empirical covariance over ``m`` and ``mu = tr(S) / d``::

        delta = |S - mu I|^2 / d
        beta  = min(delta, (sum_i |x_i|^4 / m - |S|^2) / (d m))
        rho   = beta / delta,    covariance = (1 - rho) S + rho mu I

    Args:
      samples: One sample per row; they are centred here.

    Returns:
      The covariance and ``rho``, which is 0 where ``beta`` is 0.

    Note:
      These are the terms that scikit-learn's ``LedoitWolf`` computes.

    Example:
      >>> covariance, rho = ledoit_wolf(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
      >>> print(covariance.tolist(), float(rho))
      [[1.0, 0.0], [0.0, 0.0]] 0.0
    """
    m, d = samples.shape
    x = samples - jnp.mean(samples, axis=0, keepdims=True)
    S = jnp.matmul(x.T, x, precision=grids.HIGHEST) / m
    identity = jnp.eye(d, dtype=S.dtype)
    mu = jnp.trace(S) / d
    # |S - mu I|^2 directly, not as a difference: the difference cancels in float32.
    delta = jnp.sum((S - mu * identity) ** 2) / d
    fourth = jnp.mean(jnp.sum(x**2, axis=1) ** 2)
    beta = jnp.maximum((fourth - jnp.sum(S**2)) / (d * m), 0.0)
    beta = jnp.minimum(beta, delta)
    rho = jnp.where(beta > 0, beta / jnp.where(delta > 0, delta, 1), 0)
    return (1 - rho) * S + rho * mu * identity, rho


def _whitener(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns ``W`` with ``W' W`` the inverse, null directions given no weight."""
    values, vectors = jnp.linalg.eigh(covariance)
    floor = jnp.finfo(values.dtype).eps * values.shape[0] * jnp.max(values)
    keep = values > floor
    scale = jnp.where(keep, 1 / jnp.sqrt(jnp.where(keep, values, 1)), 0)
    return scale[:, None] * vectors.T


def _distance(
    mean: Float[Array, " d"], whitener: Float[Array, "d d"], x: Float[Array, "*b d"]
) -> Float[Array, "*b"]:
    """Returns the Mahalanobis distance of each sample."""
    # Rank promotion is written out: x may be a vector or a map of vectors.
    e = x - jnp.broadcast_to(mean, x.shape)
    white = jnp.matmul(e, whitener.T, precision=grids.HIGHEST)
    return jnp.sqrt(jnp.sum(white**2, axis=-1))
