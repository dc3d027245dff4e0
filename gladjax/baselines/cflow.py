"""CFlow-AD: a normalising flow per layer, conditioned on the position.

An invertible network turns the feature at a position into a standard normal vector; the
change of variables gives the feature's log-likelihood. One network serves all positions
of a layer and is told where it is by a sinusoidal encoding of row and column. It is
trained by maximum likelihood on the cells of normal images. At test time the
likelihoods of the layers, relative to the best seen in training, are brought to the
image's size and added; an anomaly is where little is left.

The blocks of a flow are those of `flows`.

Notation: ``d`` features of a layer, ``p`` features of a position's code, ``b`` blocks,
``l`` the log-likelihood of a cell divided by ``d``.

Differs from the reference in:
1. Features are standardised per layer with the training set's mean and deviation.
2. Blocks permute features; the reference multiplies by a random rotation.
3. Likelihoods are relative to the largest of the *training* set; the reference takes
   the largest of the test set, so that an image's score depends on its company.
4. Layers are trained one after another, on cells drawn anew at each step; the
   reference goes through images in epochs and trains the layers side by side.

Reference: Gudovskiy, Ishizaka, Kozuka. "CFLOW-AD: Real-Time Unsupervised Anomaly
Detection with Localization via Conditional Normalizing Flows". WACV 2022.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gladjax.baselines import flows, grids, training
from gladjax.pytree import pytree, static


@pytree
class Flow:
    """The flow of one layer.

    Attributes:
      blocks: What is trained.
      order: Permutation of the features after each block.
      mean: Mean subtracted from the features.
      deviation: Deviation that they are divided by.
      code: Code of each position.
      best: Largest log-likelihood per feature in training.
      losses: Training loss at each step.
    """

    blocks: flows.Blocks
    order: Int[Array, "_b _d"]
    mean: Float[Array, " _d"]
    deviation: Float[Array, " _d"]
    code: Float[Array, "_h _w _p"]
    best: Float[Array, ""]
    losses: Float[Array, " _s"]


@pytree
class CFlowModel:
    """The flows of CFlow-AD.

    Attributes:
      flows: One flow per layer.
      layers: Names of the layers, finest first.
      image_size: Height and width of the maps.
    """

    flows: Mapping[str, Any]  # Of `Flow`; named so, beartype mixes up reloaded ones.
    layers: tuple[str, ...] = static()
    image_size: tuple[int, int] = static()


@dataclass(frozen=True)
class Training:
    """How a flow is built and trained.

    Attributes:
      num_blocks: flows.Blocks of a flow.
      num_code: Features of a position's code, a multiple of 4.
      num_steps: Steps of Adam per layer.
      batch_size: Cells per step.
      learning_rate: Largest rate.
    """

    num_blocks: int = 8
    num_code: int = 128
    num_steps: int = 1500
    batch_size: int = 512
    learning_rate: float = 2e-3


def fit(
    key: PRNGKeyArray,
    features: grids.FeatureMaps,
    *,
    valid: grids.Valid | None = None,
    layers: Sequence[str] | None = None,
    settings: Training = Training(),
    image_size: grids.Size | None = None,
) -> CFlowModel:
    """Trains one flow per layer.

    Args:
      key: Draws parameters, permutations and batches.
      features: Feature maps of the training images, ``(m, h, w, d)`` each.
      valid: Cells of the finest grid that may be used, per image.
      layers: Names of the layers to use, finest first; None means all.
      settings: How a flow is built and trained.
      image_size: Height and width of the maps that `score` returns; None means four
        times the finest grid.

    Returns:
      The model.

    Raises:
      ValueError: If the feature maps or settings do not fit together, or a layer has no
        valid cell.
      FloatingPointError: If training diverges.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> train = {"layer1": rng.normal(size=(9, 8, 8, 4)).astype(np.float32)}
      >>> settings = Training(num_blocks=2, num_code=8, num_steps=3)
      >>> model = fit(jax.random.key(0), train, settings=settings)
      >>> heat, scores = score(model, train)
      >>> print(heat.shape, scores.shape, model.flows["layer1"].losses.shape)
      (9, 32, 32) (9,) (3,)
    """
    names = grids.select(features, layers)
    size = grids.image_size_or_default(image_size, grids.finest(features, names))
    if settings.num_code < 4 or settings.num_code % 4:
        raise ValueError(f"num_code must be a multiple of 4, got {settings.num_code}")
    if min(settings.num_blocks, settings.batch_size) < 1:
        raise ValueError(f"num_blocks and batch_size must be positive: {settings}")
    training.optimizer(settings.num_steps, learning_rate=settings.learning_rate)
    masks = grids.coarsen(valid, features)
    found = {}
    for i, name in enumerate(names):
        x = jnp.asarray(features[name])
        inside = (
            np.ones(x.shape[:3], bool) if masks is None else np.asarray(masks[name])
        )
        if not inside.any():
            raise ValueError(f"valid leaves no cell in {name!r}")
        found[name] = _fit_layer(jax.random.fold_in(key, i), x, inside, settings)
    return CFlowModel(found, names, size)


@jax.jit
def score(
    model: CFlowModel, features: grids.FeatureMaps
) -> tuple[Float[Array, "n _H _W"], Float[Array, " n"]]:
    """Scores test images by the likelihood that their features have lost.

    With ``l`` the log-likelihood per feature of a cell, the map is the sum over layers
    of ``1 - exp(l - best)``, resized bilinearly.

    Args:
      model: The model.
      features: Feature maps of the test images, ``(n, h, w, d)`` each.

    Returns:
      Maps at the image's size, and their maxima; higher is more anomalous.

    Raises:
      ValueError: If a layer is missing or the grids are not those of the training set.
    """
    names = grids.select(features, model.layers)
    for name in names:
        if features[name].shape[1:3] != model.flows[name].code.shape[:2]:
            raise ValueError(f"{name!r} has another grid than in training")

    def one(maps: Mapping[str, Array]) -> Array:
        heat = 0
        for name in names:
            flow = model.flows[name]
            lost = 1 - jnp.exp(log_prob(flow, maps[name]) - flow.best)
            heat = heat + grids.heat_map(lost[None], image_size=model.image_size)[0]
        return jnp.asarray(heat)

    heat = jax.lax.map(one, {name: jnp.asarray(features[name]) for name in names})
    return heat, jnp.max(heat, axis=(1, 2))


def log_prob(flow: Flow, features: Float[Array, "h w d"]) -> Float[Array, "h w"]:
    """Returns the log-likelihood per feature of each cell of one image.

    Args:
      flow: The flow of the layer.
      features: Feature map.

    Returns:
      Natural logarithms, of the density of the *standardised* features.
    """
    x = (features - flow.mean[None, None]) / flow.deviation[None, None]
    flat = x.reshape(-1, x.shape[-1])
    code = flow.code.reshape(flat.shape[0], -1)
    z, log_det = flows.transform(flow.blocks, flow.order, flat, code)
    return (flows.normal_log_prob(z) + log_det).reshape(
        features.shape[:2]
    ) / flat.shape[1]


def _fit_layer(
    key: PRNGKeyArray, x: Array, inside: np.ndarray, settings: Training
) -> Flow:
    """Trains the flow of one layer on the cells marked ``inside``."""
    start, order_key, loop = jax.random.split(key, 3)
    _, h, w, d = x.shape
    cells = jnp.asarray(np.flatnonzero(inside))
    flat = x.reshape(-1, d)
    used = flat if inside.all() else flat[cells]
    mean = jnp.mean(used, axis=0)
    deviation = jnp.std(used, axis=0) + jnp.asarray(1e-6, x.dtype)
    code = jnp.asarray(flows.encode((h, w), settings.num_code), x.dtype)
    shuffle = training.generator(order_key)
    order = np.stack([shuffle.permutation(d) for _ in range(settings.num_blocks)])
    order = jnp.asarray(order)
    blocks, losses = training.minimize(
        loop,
        flows.init(
            start,
            d,
            x.dtype,
            num_blocks=settings.num_blocks,
            num_code=settings.num_code,
        ),
        (flat, cells, code.reshape(h * w, -1), order, mean, deviation),
        loss=_loss,
        settings=settings,
        num_steps=settings.num_steps,
        learning_rate=settings.learning_rate,
    )
    best = jnp.zeros((), x.dtype)
    flow = Flow(blocks, order, mean, deviation, code, best, jnp.asarray(losses))
    best = jnp.max(jnp.where(jnp.asarray(inside), _log_probs(flow, x), -jnp.inf))
    return dataclasses.replace(flow, best=best)


@jax.jit
def _log_probs(flow: Flow, x: Float[Array, "m h w d"]) -> Float[Array, "m h w"]:
    """Returns the log-likelihood per feature of each cell, image by image."""
    return jax.lax.map(lambda one: log_prob(flow, one), x)


def _loss(
    blocks: flows.Blocks,
    data: tuple[Array, ...],
    key: PRNGKeyArray,
    settings: Training,
) -> Array:
    """Returns the loss on cells drawn by the key."""
    flat, cells, codes, order, mean, deviation = data
    rows = cells[jax.random.randint(key, (settings.batch_size,), 0, cells.shape[0])]
    x = (flat[rows] - mean[None]) / deviation[None]
    z, log_det = flows.transform(blocks, order, x, codes[rows % codes.shape[0]])
    log_prob = flows.normal_log_prob(z) + log_det
    return -jnp.mean(jax.nn.log_sigmoid(log_prob / flat.shape[1]))
