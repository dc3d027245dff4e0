"""PaDiM: one Gaussian per position over a random choice of features.

All layers are brought to the finest grid by nearest neighbour and concatenated; a
random subset of the dimensions is kept, the same everywhere. Each position has its own
Gaussian over the training images, with ``0.01 I`` added to the covariance. The map is
the Mahalanobis distance, resized bilinearly to the image and smoothed by a Gaussian of
sigma 4; the image's score is its maximum.

Notation: ``m`` training images, ``r`` kept dimensions, ``H W`` the finest grid, ``z``
a kept feature vector, ``W`` a whitening matrix with ``W' W`` the inverse covariance.
``W`` is the inverse of a Cholesky factor, so that the squared distance ``|W e|^2``
cannot turn negative. Training walks over positions and scoring over images, a few at a
time, and neither holds more than the model and the feature maps themselves.

Differs from the reference in:
1. A layer is brought to the finest grid whatever its size; the paper's grids halve.
2. The position's Gaussian leaves out images invalid there; a position valid in no image
   has distance 0, one valid in a single image the covariance ``0.01 I``.
3. Random dimensions only; the principal components that the paper compares with are
   left out (it finds them worse).

Reference: Defard, Setkov, Loesch, Audigier. "PaDiM: a Patch Distribution Modeling
Framework for Anomaly Detection and Localization". ICPR 2020 workshops.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gladjax import programs
from gladjax.baselines import grids
from gladjax.pytree import pytree, static


@pytree
class PadimModel:
    """The Gaussians of PaDiM.

    Attributes:
      mean: Mean at each position.
      whitener: For each position a lower triangular ``W``; the distance of ``z`` is the
        norm of ``W (z - mean)``.
      dims: For each layer the kept dimensions, numbered within the layer.
      layers: Names of the layers, finest first.
      image_size: Height and width of the maps.
      sigma: Smoothing of the maps, in pixels.
    """

    mean: Float[Array, "_H _W _r"]
    whitener: Float[Array, "_H _W _r _r"]
    dims: Mapping[str, Int[Array, " _k"]]
    layers: tuple[str, ...] = static()
    image_size: tuple[int, int] = static()
    sigma: float = static()


def fit(
    key: PRNGKeyArray,
    features: grids.FeatureMaps,
    *,
    valid: grids.Valid | None = None,
    layers: Sequence[str] | None = None,
    dims: int | Sequence[int] | np.ndarray = 100,
    regularization: float = 0.01,
    image_size: grids.Size | None = None,
    sigma: float = 4.0,
) -> PadimModel:
    """Fits one Gaussian per position.

    Args:
      key: Chooses the dimensions; unused where ``dims`` lists them.
      features: Feature maps of the training images, ``(m, h, w, d)`` each.
      valid: Cells of the finest grid that may be used, per image.
      layers: Names of the layers to use, finest first; None means all.
      dims: How many dimensions to keep of the concatenated features (all of them where
        there are fewer), or which ones, numbered over the layers in order. The paper
        keeps 100 of ResNet18's and 550 of WideResNet50's.
      regularization: Multiple of the identity added to every covariance.
      image_size: Height and width of the maps that `score` returns; None means four
        times the finest grid.
      sigma: Standard deviation of the maps' smoothing, in pixels.

    Returns:
      The model. Its size is about ``4 H W r^2`` bytes in float32.

    Raises:
      ValueError: If the feature maps or options do not fit together.

    Example:
      >>> import jax, numpy as np
      >>> rng = np.random.default_rng(0)
      >>> train = {"layer1": rng.normal(size=(30, 8, 8, 6)).astype(np.float32)}
      >>> model = fit(jax.random.key(0), train, dims=4)
      >>> heat, scores = score(model, {"layer1": train["layer1"][:5]})
      >>> print(model.whitener.shape, heat.shape, scores.shape)
      (8, 8, 4, 4) (5, 32, 32) (5,)
    """
    names = grids.select(features, layers)
    grid = grids.finest(features, names)
    if regularization <= 0:
        raise ValueError(f"regularization must be positive, got {regularization}")
    grids.gaussian_matrix(1, sigma)  # Refuses a bad sigma.
    kept = _split(_choose(key, features, names, dims), features, names)
    maps = {k: jnp.asarray(features[k])[..., jnp.asarray(kept[k])] for k in names}
    masks = grids.coarsen(valid, features)
    if masks is None:
        m = maps[names[0]].shape[0]
        masks = {k: jnp.ones((m, *maps[k].shape[1:3]), bool) for k in names}
    mean, whitener = _gaussians(
        maps,
        {k: masks[k] for k in names},
        layers=names,
        regularization=float(regularization),
    )
    return PadimModel(
        mean=mean,
        whitener=whitener,
        dims={k: jnp.asarray(kept[k]) for k in names},
        layers=names,
        image_size=grids.image_size_or_default(image_size, grid),
        sigma=float(sigma),
    )


@jax.jit
def score(
    model: PadimModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _H _W"], Float[Array, " n"]]:
    """Scores test images by the Mahalanobis distance at each position.

    Args:
      model: The model.
      features: Feature maps of the test images, ``(n, h, w, d)`` each.

    Returns:
      Smoothed maps at the image's size, and their maxima; higher is more anomalous.

    Raises:
      ValueError: If a layer is missing or the grids are not those of the training set.
    """
    heat = grids.heat_map(
        distance_maps(model, features), image_size=model.image_size, sigma=model.sigma
    )
    return heat, jnp.max(heat, axis=(1, 2))


@jax.jit
def distance_maps(
    model: PadimModel, features: grids.FeatureMaps
) -> Float[Array, "n _H _W"]:
    """Returns the Mahalanobis distance of each position, on the finest grid.

    Args:
      model: The model.
      features: Feature maps of the test images.

    Returns:
      Distances, neither resized nor smoothed.

    Raises:
      ValueError: If a layer is missing or the grids are not those of the training set.
    """
    names = grids.select(features, model.layers)
    H, W, _ = model.mean.shape
    if grids.finest(features, names) != (H, W):
        raise ValueError(
            f"{names[0]!r} has shape {features[names[0]].shape}, the model has {H}x{W}"
        )

    def one(maps: Mapping[str, Array]) -> Array:
        parts = []
        for name in names:
            part = jnp.take(maps[name], model.dims[name], axis=-1)
            rows = grids.nearest_indices(part.shape[0], H)
            columns = grids.nearest_indices(part.shape[1], W)
            parts.append(part[rows][:, columns])
        e = jnp.concatenate(parts, axis=-1) - model.mean
        white = jnp.einsum("hwij,hwj->hwi", model.whitener, e, precision=grids.HIGHEST)
        return jnp.sqrt(jnp.sum(white**2, axis=-1))

    # Eight images share one pass over the whiteners, which dominate the traffic.
    maps = {name: jnp.asarray(features[name]) for name in names}
    return jax.lax.map(one, maps, batch_size=8)


def _choose(
    key: PRNGKeyArray,
    features: grids.FeatureMaps,
    names: Sequence[str],
    dims: int | Sequence[int] | np.ndarray,
) -> np.ndarray:
    """Returns the kept dimensions, numbered over the concatenated layers."""
    total = sum(features[name].shape[-1] for name in names)
    if isinstance(dims, int):
        if dims < 1:
            raise ValueError(f"dims must be positive, got {dims}")
        order = jax.random.permutation(key, total)
        return np.sort(np.asarray(order)[: min(dims, total)])
    found = np.asarray(dims)
    good = found.ndim == 1 and found.size and np.issubdtype(found.dtype, np.integer)
    if not good or found.min() < 0 or found.max() >= total:
        raise ValueError(f"dims must list dimensions from 0 to {total - 1}, got {dims}")
    if len(set(found.tolist())) != len(found):
        raise ValueError(f"dims lists one dimension twice: {dims}")
    return np.sort(found)


def _split(
    dims: np.ndarray, features: grids.FeatureMaps, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Renumbers dimensions of the concatenation within their layers."""
    split, start = {}, 0
    for name in names:
        stop = start + features[name].shape[-1]
        split[name] = dims[(dims >= start) & (dims < stop)] - start
        start = stop
    return split


@partial(programs.Program, static=("layers", "regularization"), alone=True)
def _gaussians(
    maps: Mapping[str, Float[Array, "m _h _w _k"]],
    masks: Mapping[str, Bool[Array, "m _h _w"]],
    *,
    layers: tuple[str, ...],
    regularization: float,
) -> tuple[Float[Array, "_H _W _r"], Float[Array, "_H _W _r _r"]]:
    """Returns mean and whitener of each position of the finest grid."""
    _, H, W, _ = maps[layers[0]].shape
    dtype = maps[layers[0]].dtype
    identity = jnp.eye(sum(maps[name].shape[-1] for name in layers), dtype=dtype)

    def one(place: Array) -> tuple[Array, Array]:
        parts, inside = [], jnp.ones(maps[layers[0]].shape[0], bool)
        for name in layers:
            _, h, w, _ = maps[name].shape
            at = (place // W) * h // H, (place % W) * w // W
            parts.append(maps[name][:, at[0], at[1]])
            inside = masks[name][:, at[0], at[1]] & inside
        use = inside[:, None]
        z = jnp.where(use, jnp.concatenate(parts, axis=-1), 0)
        n = jnp.sum(inside).astype(dtype)
        mean = jnp.sum(z, axis=0) / jnp.maximum(n, 1)
        e = jnp.where(use, z - mean[None], 0)
        S = jnp.matmul(e.T, e, precision=grids.HIGHEST) / jnp.maximum(n - 1, 1)
        L = jnp.linalg.cholesky(S + regularization * identity)
        return mean, jnp.where(n > 0, _invert_lower(L), 0)

    mean, whitener = jax.lax.map(one, jnp.arange(H * W), batch_size=32)
    r = identity.shape[0]
    return mean.reshape(H, W, r), whitener.reshape(H, W, r, r)


def _invert_lower(L: Float[Array, "r r"]) -> Float[Array, "r r"]:
    """Inverts a lower triangular matrix by halves, mostly in matrix products.

    With ``A`` and ``C`` the inverses of the diagonal blocks and ``B`` the block below
    them, the inverse is ``[[A, 0], [-C B A, C]]``. The library's solve for the whole
    inverse took most of the time of a fit.
    """
    r = L.shape[0]
    halvings = max(0, math.ceil(math.log2(r / 16)))
    side = -(-r // 2**halvings)
    padding = side * 2**halvings - r
    L = (
        jax.scipy.linalg.block_diag(L, jnp.eye(padding, dtype=L.dtype))
        if padding
        else L
    )

    def blocks(below: int) -> Array:
        """The diagonal blocks, or every other one of those below the diagonal."""
        starts = range(0, L.shape[0], (1 + below) * side)
        return jnp.stack(
            [L[i + below * side : i + (1 + below) * side, i : i + side] for i in starts]
        )

    leaf = blocks(0)
    ones = jnp.broadcast_to(jnp.eye(side, dtype=L.dtype), leaf.shape)
    X = jax.scipy.linalg.solve_triangular(leaf, ones, lower=True)
    while side < L.shape[0]:
        A, C = X[0::2], X[1::2]
        CB = jnp.matmul(C, blocks(1), precision=grids.HIGHEST)
        low = -jnp.matmul(CB, A, precision=grids.HIGHEST)
        X = jnp.block([[A, jnp.zeros_like(A)], [low, C]])
        side *= 2
    return X[0, :r, :r]
