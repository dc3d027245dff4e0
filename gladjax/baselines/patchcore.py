"""PatchCore: distance to the nearest of a small memory bank of patches.

Features of the middle layers are averaged over 3 x 3 neighbourhoods, brought to the
finer of their grids bilinearly and concatenated: one *patch* per cell. A greedy coreset
of all training patches, chosen in a random projection, is the memory bank. A cell's
score is the distance of its patch to the nearest in the bank. The image's score is the
largest of these, weighted by how crowded the bank is around that neighbour::

    s = (1 - exp |x* - c*| / sum_{c in N_b(c*)} exp |x* - c|) |x* - c*|

with ``x*`` the patch of largest distance, ``c*`` its neighbour and ``N_b(c*)`` the
``b`` rows of the bank nearest to ``c*``, itself among them (Eqs. 6 and 7).

Notation: as above; ``b`` is ``num_neighbors``. Images are scored a few at a time
against blocks of the bank.

Differs from the reference in:
1. A neighbourhood is averaged as it is (like anomalib), zeros outside the grid counting
   among the nine; the paper resamples channels to a fixed number as well.
2. The coreset's projection is Gaussian, its target dimension a number, 128 by default.
3. With ``valid``, a patch enters the bank only where every cell it averages is valid.

Reference: Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler. "Towards Total Recall in
Industrial Anomaly Detection". CVPR 2022.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gladjax.baselines import grids, neighbors
from gladjax.pytree import pytree, static


@pytree
class PatchCoreModel:
    """The memory bank of PatchCore.

    Attributes:
      bank: Patches.
      layers: Names of the layers, finest first.
      num_neighbors: Size ``b`` of the neighbourhood that weights the score.
      image_size: Height and width of the maps.
      sigma: Smoothing of the maps, in pixels.
    """

    bank: Float[Array, "_b _d"]
    layers: tuple[str, ...] = static()
    num_neighbors: int = static()
    image_size: tuple[int, int] = static()
    sigma: float = static()


def fit(
    key: PRNGKeyArray,
    features: grids.FeatureMaps,
    *,
    valid: grids.Valid | None = None,
    layers: Sequence[str] | None = ("layer2", "layer3"),
    coreset: float | Sequence[int] | np.ndarray = 0.1,
    num_neighbors: int = 9,
    image_size: grids.Size | None = None,
    sigma: float = 4.0,
) -> PatchCoreModel:
    """Fills the memory bank.

    Args:
      key: Draws the projection and the first patch of the coreset.
      features: Feature maps of the training images, ``(m, h, w, d)`` each.
      valid: Cells of the finest of the given grids that may be used, per image.
      layers: Names of the layers to use, finest first; None means all. The paper takes
        the middle two.
      coreset: Share of the patches to keep, in (0, 1], or the numbers of the patches,
        counted over images, rows and columns.
      num_neighbors: Size of the neighbourhood that weights the image's score.
      image_size: Height and width of the maps that `score` returns; None means four
        times the finest of the given grids.
      sigma: Standard deviation of the maps' smoothing, in pixels.

    Returns:
      The model. The coreset is chosen among the valid patches.

    Raises:
      ValueError: If the feature maps or options do not fit together, or no patch is
        valid.

    Example:
      >>> import jax, numpy as np
      >>> rng = np.random.default_rng(0)
      >>> train = {"layer2": rng.normal(size=(9, 8, 8, 4)).astype(np.float32)}
      >>> model = fit(jax.random.key(0), train, layers=None, coreset=0.25)
      >>> heat, scores = score(model, {"layer2": train["layer2"][:5] + 4})
      >>> print(model.bank.shape, heat.shape, bool(scores.min() > 2))
      (144, 4) (5, 32, 32) True
    """
    names = grids.select(features, layers)
    size = grids.image_size_or_default(
        image_size, grids.finest(features, tuple(features))
    )
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be positive, got {num_neighbors}")
    grids.gaussian_matrix(1, sigma)  # Refuses a bad sigma.
    masks = grids.coarsen(valid, features)
    maps = patches(
        grids.blank({name: features[name] for name in names}, masks), layers=names
    )
    flat = maps.reshape(-1, maps.shape[-1])
    allowed = np.arange(flat.shape[0])
    if masks is not None:
        bad = [jnp.logical_not(masks[k])[..., None].astype(flat.dtype) for k in names]
        whole = grids.whole([_pool(x)[..., 0] == 0 for x in bad])
        allowed = allowed[whole.ravel()]
        if not allowed.size:
            raise ValueError("no patch has all of its cells valid")
    chosen = _choose(key, flat, allowed, coreset)
    return PatchCoreModel(
        bank=flat[chosen],
        layers=names,
        num_neighbors=min(num_neighbors, len(chosen)),
        image_size=size,
        sigma=float(sigma),
    )


@jax.jit
def score(
    model: PatchCoreModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _H _W"], Float[Array, " n"]]:
    """Scores test images by the distances of their patches to the bank.

    Args:
      model: The model.
      features: Feature maps of the test images, ``(n, h, w, d)`` each.

    Returns:
      Smoothed maps at the image's size, and the weighted largest distance of each
      image; higher is more anomalous.

    Raises:
      ValueError: If a layer is missing.
    """
    distance, scores = distance_maps(model, features)
    heat = grids.heat_map(distance, image_size=model.image_size, sigma=model.sigma)
    return heat, scores


@jax.jit
def distance_maps(
    model: PatchCoreModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _h _w"], Float[Array, " n"]]:
    """Returns each patch's distance to the bank, on the grid of the patches.

    Args:
      model: The model.
      features: Feature maps of the test images.

    Returns:
      Distances, neither resized nor smoothed, and the images' scores.

    Raises:
      ValueError: If a layer is missing.
    """
    names = grids.select(features, model.layers)

    def one(maps: Mapping[str, Array]) -> tuple[Array, Array]:
        single = {name: maps[name][None] for name in names}
        x = patches(single, layers=model.layers)[0]
        flat = x.reshape(-1, x.shape[-1])
        distance, row = neighbors.nearest(flat, model.bank)
        worst = jnp.argmax(distance[:, 0])
        around = model.bank[row[worst]]
        _, rows = neighbors.nearest(
            around, model.bank, num_neighbors=model.num_neighbors
        )
        e = flat[worst][None] - model.bank[rows[0]]
        # The neighbour itself comes first in its own neighbourhood (Eq. 7).
        share = jax.nn.softmax(jnp.sqrt(jnp.sum(e**2, axis=1)))[0]
        return distance.reshape(x.shape[:2]), (1 - share) * distance[worst, 0]

    return jax.lax.map(one, {name: jnp.asarray(features[name]) for name in names})


@partial(jax.jit, static_argnames="layers")
def patches(
    features: grids.FeatureMaps, *, layers: tuple[str, ...]
) -> Float[Array, "n _h _w _d"]:
    """Averages 3 x 3 neighbourhoods and concatenates layers on the finest grid.

    Args:
      features: Feature maps, one entry per layer.
      layers: Names of the layers, finest first.

    Returns:
      One patch per cell of the first layer's grid.
    """
    size = grids.finest(features, layers)
    pooled = [_pool(jnp.asarray(features[name])) for name in layers]
    return jnp.concatenate([grids.resize(x, size) for x in pooled], axis=-1)


def _pool(x: Float[Array, "n h w d"]) -> Float[Array, "n h w d"]:
    """Averages 3 x 3 neighbourhoods; the border is zeros, and counts."""
    zero = jnp.zeros((), x.dtype)
    window, ones = (1, 3, 3, 1), (1, 1, 1, 1)
    return jax.lax.reduce_window(x, zero, jax.lax.add, window, ones, "SAME") / 9


def _choose(
    key: PRNGKeyArray,
    flat: Float[Array, "p d"],
    allowed: Int[np.ndarray, " a"],
    coreset: float | Sequence[int] | np.ndarray,
) -> np.ndarray:
    """Returns the numbers of the patches to keep."""
    if isinstance(coreset, float | int):
        if not 0 < coreset <= 1:
            raise ValueError(f"coreset must be a share in (0, 1], got {coreset}")
        if coreset == 1:
            return allowed
        project, first = jax.random.split(key)
        count = max(1, int(coreset * len(allowed)))
        points = flat if len(allowed) == flat.shape[0] else flat[allowed]
        points = neighbors.project(project, points)
        chosen = neighbors.coreset(first, points, num_centers=count)
        return allowed[np.asarray(chosen)]
    rows = np.asarray(coreset)
    good = rows.ndim == 1 and rows.size and np.issubdtype(rows.dtype, np.integer)
    if not good or not np.isin(rows, allowed).all():
        raise ValueError("coreset must list numbers of valid patches")
    return rows
