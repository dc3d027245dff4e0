"""SPADE: nearest images, then nearest pixels within them.

An image's score is the mean distance of its global feature (the deepest layer, averaged
over its cells) to the nearest training images. Its map compares the feature of each
cell, concatenated over layers, with the features of *all* cells of those nearest
images, wherever they are: a sub-image alignment by correspondence. A cell's score is
the mean distance to its nearest few (Eqs. 1 to 3).

Notation: ``m`` training images, ``K`` nearest images, ``kappa`` nearest cells, ``h w``
the grid where cells are compared.

The whole training set is the model. A test image costs ``K (h w)^2`` distances, on a
64 x 64 grid with ``K = 50`` some 3e11 multiply-adds for 176 features; ``grid`` names a
coarser layer to compare cells on.

Differs from the reference in:
1. The global feature is the average of the deepest *given* layer; the paper averages
   the network's last stage.
2. The cells' grid is a choice; the paper's is the finest, which is the default.
3. A cell of a training image that is not valid is in no gallery.

Reference: Cohen, Hoshen. "Sub-Image Anomaly Detection with Deep Pyramid
Correspondences". arXiv:2005.02357, 2020.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from gladjax.baselines import grids, neighbors
from gladjax.pytree import pytree, static


@pytree
class SpadeModel:
    """The training set as SPADE keeps it.

    Attributes:
      pooled: Global feature of each training image.
      maps: For each layer the training images' feature maps, no finer than the grid
        where cells are compared.
      allowed: Cells of that grid that may be found.
      layers: Names of the layers, finest first.
      num_images: Nearest images ``K``.
      num_cells: Nearest cells ``kappa``.
      image_size: Height and width of the maps.
      sigma: Smoothing of the maps, in pixels.
    """

    pooled: Float[Array, "_m _d"]
    maps: Mapping[str, Float[Array, "_m _h _w _d"]]
    allowed: Bool[Array, "_m _h _w"]
    layers: tuple[str, ...] = static()
    num_images: int = static()
    num_cells: int = static()
    image_size: tuple[int, int] = static()
    sigma: float = static()


def fit(
    key: PRNGKeyArray | None,
    features: grids.FeatureMaps,
    *,
    valid: grids.Valid | None = None,
    layers: Sequence[str] | None = None,
    grid: str | None = None,
    num_neighbors: tuple[int, int] = (50, 1),
    image_size: grids.Size | None = None,
    sigma: float = 4.0,
) -> SpadeModel:
    """Keeps the training set.

    Args:
      key: Ignored; the method has no randomness. Kept for the common interface.
      features: Feature maps of the training images, ``(m, h, w, d)`` each.
      valid: Cells of the finest of the given grids that may be used, per image.
      layers: Names of the layers to use, finest first; None means all.
      grid: Layer on whose grid cells are compared; finer layers are averaged down to
        it. None means the finest.
      num_neighbors: Nearest images ``K`` (all where there are fewer) and nearest cells
        ``kappa``.
      image_size: Height and width of the maps that `score` returns; None means four
        times the finest of the given grids.
      sigma: Standard deviation of the maps' smoothing, in pixels.

    Returns:
      The model.

    Raises:
      ValueError: If the feature maps or options do not fit together, or an image has no
        valid cell.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> train = {"layer1": rng.normal(size=(9, 8, 8, 4)).astype(np.float32)}
      >>> model = fit(None, train, num_neighbors=(3, 1))
      >>> heat, scores = score(model, {"layer1": train["layer1"][:2] + 9})
      >>> print(heat.shape, bool(scores.min() > 15))
      (2, 32, 32) True
    """
    del key
    names = grids.select(features, layers)
    grid = names[0] if grid is None else grid
    if grid not in names:
        raise ValueError(f"grid must be one of {list(names)}, got {grid!r}")
    num_images, num_cells = num_neighbors
    if min(num_images, num_cells) < 1:
        raise ValueError(f"num_neighbors must be positive, got {num_neighbors}")
    grids.gaussian_matrix(1, sigma)  # Refuses a bad sigma.
    size = grids.finest(features, [grid])
    m = features[grid].shape[0]
    if num_cells > size[0] * size[1]:
        raise ValueError(f"num_neighbors asks for {num_cells} cells of {size}")
    masks = grids.coarsen(valid, features)
    maps = grids.blank({name: features[name] for name in names}, masks)
    pooled = jnp.mean(maps[names[-1]], axis=(1, 2))
    allowed = np.ones((m, *size), bool)
    if masks is not None:
        share = jnp.mean(masks[names[-1]].astype(pooled.dtype), axis=(1, 2))
        pooled = pooled / share[:, None]
        # A finer layer's cells are averaged over just what the grid's cell covers.
        coarse = [k for k in names if grids.finest(features, [k]) <= size]
        allowed = grids.whole([masks[grid], *(masks[k] for k in coarse)])
        if bool(jnp.any(share == 0)) or not allowed.any(axis=(1, 2)).all():
            raise ValueError("valid leaves a training image without a cell")
    return SpadeModel(
        pooled=pooled,
        maps={name: _shrink(maps[name], size) for name in names},
        allowed=jnp.asarray(allowed),
        layers=names,
        num_images=min(num_images, m),
        num_cells=num_cells,
        image_size=grids.image_size_or_default(
            image_size, grids.finest(features, tuple(features))
        ),
        sigma=float(sigma),
    )


@jax.jit
def score(
    model: SpadeModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _H _W"], Float[Array, " n"]]:
    """Scores test images by their nearest images, and cells by their nearest cells.

    Args:
      model: The model.
      features: Feature maps of the test images, ``(n, h, w, d)`` each.

    Returns:
      Smoothed maps at the image's size, and the mean distance to the ``K`` nearest
      images; higher is more anomalous.

    Raises:
      ValueError: If a layer is missing.
    """
    names = grids.select(features, model.layers)
    size = model.allowed.shape[1], model.allowed.shape[2]
    K, kappa = model.num_images, model.num_cells

    def one(maps: Mapping[str, Array]) -> tuple[Array, Array]:
        pooled = jnp.mean(maps[names[-1]], axis=(0, 1))[None]
        far, image = neighbors.nearest(pooled, model.pooled, num_neighbors=K)
        x = _cells({name: _shrink(maps[name][None], size) for name in names}, names)

        def look(best: Array, j: Array) -> tuple[Array, None]:
            # One training image at a time: the gallery is never held as a whole.
            near = {name: model.maps[name][j][None] for name in names}
            gap, _ = neighbors.nearest(
                x,
                _cells(near, names),
                num_neighbors=kappa,
                allowed=model.allowed[j].reshape(-1),
            )
            both = jnp.concatenate([best, gap], axis=1)
            return jnp.sort(both, axis=1)[:, :kappa], None

        none = jnp.full((x.shape[0], kappa), jnp.inf, x.dtype)
        best, _ = jax.lax.scan(look, none, image[0])
        heat = jnp.mean(best, axis=1).reshape(1, *size)
        heat = grids.heat_map(heat, image_size=model.image_size, sigma=model.sigma)
        return heat[0], jnp.mean(far)

    return jax.lax.map(one, {name: jnp.asarray(features[name]) for name in names})


def _shrink(
    maps: Float[Array, "n h w d"], size: grids.Size
) -> Float[Array, "n _h _w d"]:
    """Averages a layer finer than the grid down to it; others stay as they are."""
    n, h, w, d = maps.shape
    if h <= size[0] and w <= size[1]:
        return maps
    if h % size[0] or w % size[1]:
        raise ValueError(f"cannot average a grid {h}x{w} down to {size[0]}x{size[1]}")
    blocks = maps.reshape(n, size[0], h // size[0], size[1], w // size[1], d)
    return jnp.mean(blocks, axis=(2, 4))


def _cells(maps: Mapping[str, Array], names: Sequence[str]) -> Float[Array, "_p _d"]:
    """Returns the concatenated features of each cell of one image."""
    size = max(grids.finest(maps, [name]) for name in names)
    parts = [grids.resize(maps[name], size) for name in names]
    x = jnp.concatenate(parts, axis=-1)
    return x.reshape(-1, x.shape[-1])
