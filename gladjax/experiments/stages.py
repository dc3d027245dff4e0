"""The stages of a detector one by one, each kept: features, mixture, weights, maps.

`gladjax.detector.fit` runs from images to a detector. A study changes one thing at a
time, so here its stages stand apart, and each is a piece of `gladjax.experiments.store`
that all rows share which do not differ before it. Keys are split as the detector splits
them: the same seed gives the same mixtures, weights and scores.

Notation: ``m`` training images, ``n`` test images, ``h w`` the map of a layer.

Differs from the reference in: what `gladjax.detector` names.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023.
"""

import dataclasses
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from gladjax import covariance, detector, masks, mixture, scoring, weights
from gladjax.detector import Settings
from gladjax.experiments import store
from gladjax.experiments.sources import Source
from gladjax.experiments.store import Piece
from gladjax.mixture import GaussianMixture
from gladjax.weights import LocalWeights

PAPER = {
    "num_components": 1000,
    "max_samples": 0,
    "max_steps": 100,
    "tolerance": 1e-6,
}
"""Settings of the paper that a quick run reduces."""
WEIGHTS = ("starts", "components", "log_weights")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the model of a layer is fitted.

    Attributes:
      settings: Its numbers, as the detector has them.
      seed: Randomness.
      estimator: ``"kmle"`` or ``"em"``.
      oas: Whether covariances are shrunk.
    """

    settings: Settings
    seed: int = 0
    estimator: str = "kmle"
    oas: bool = True

    def described(self) -> dict[str, Any]:
        """Returns what decides a mixture."""
        names = ("num_components", "max_steps", "tolerance", "min_count", "max_samples")
        numbers = {name: getattr(self.settings, name) for name in names}
        fixed = {"seed": self.seed, "estimator": self.estimator, "oas": self.oas}
        return {**numbers, **fixed}


class FittedLayer(NamedTuple):
    """The model of one layer and the log-maps it gives.

    Attributes:
      mixture: The mixture.
      local_weights: The weights.
      log_maps: Log-probability maps of the test images, ``(n, h, w)``.
      info: Seconds, steps, components, bytes.
    """

    mixture: GaussianMixture
    local_weights: LocalWeights
    log_maps: np.ndarray
    info: dict[str, Any]


def reduced(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings in which a run is smaller than the paper's, with both."""
    chosen = dataclasses.asdict(recipe.settings)
    return {
        name: {"here": chosen[name], "paper": value}
        for name, value in PAPER.items()
        if chosen[name] != value
    }


def fit_layer(
    source: Source, layer: str, recipe: Recipe, *, local: bool = True, test: str = ""
) -> FittedLayer:
    """Fits one layer and computes the log-maps of the test images.

    Args:
      source: The features.
      layer: Which layer.
      recipe: How to fit.
      local: Whether weights are local.
      test: Says which images ``source.test`` holds, if not the test images.

    Returns:
      Mixture, weights and maps; each is computed only if no piece holds it.
    """
    keep = _keep(source, layer)
    described = {**source.described, "layer": layer, **recipe.described()}
    piece = store.get(
        source.folder,
        described,
        lambda: _mixture(source, layer, recipe, keep),
        name="mixture",
    )
    fitted = GaussianMixture(**piece.arrays)
    info = dict(piece.info)
    placed = {**described, "local": local, "radius": recipe.settings.radius}
    if recipe.settings.prior:
        placed |= {"prior": recipe.settings.prior}

    def weigh() -> Piece:
        begun = time.perf_counter()
        found = _weights(fitted, source.train[layer], keep, recipe, local=local)
        seconds = time.perf_counter() - begun
        arrays = {name: np.asarray(getattr(found, name)) for name in WEIGHTS}
        return Piece(arrays, {"seconds": seconds, "shape": list(found.shape)})

    weighed = store.get(source.folder, placed, weigh, name="weights")
    height, width = weighed.info["shape"]
    local_weights = LocalWeights(**weighed.arrays, shape=(height, width))
    scored = store.get(
        source.folder,
        {**placed, "test": test},
        lambda: log_maps(fitted, local_weights, source.test[layer]),
        name="maps",
    )
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(local_weights)]
    info |= {
        "weights_seconds": weighed.info["seconds"],
        "score_seconds": scored.info["seconds"],
        "num_components": len(fitted.means),
        "active_per_position": float(weights.active(local_weights).mean()),
        "bytes": mixture.num_bytes(fitted) + sum(sizes),
    }
    return FittedLayer(fitted, local_weights, scored.arrays["log_maps"], info)


def _keep(source: Source, layer: str) -> np.ndarray:
    """Returns the cells of a layer that may be learnt from, ``(m, h, w)``."""
    shape = source.train[layer].shape[:3]
    grids = [np.asarray(masks.to_grid(v, shape[1:])) for v in source.valid]
    return np.ascontiguousarray(np.broadcast_to(np.stack(grids), shape))


def _mixture(source: Source, layer: str, recipe: Recipe, keep: np.ndarray) -> Piece:
    """Fits the mixture of a layer as `gladjax.detector.fit` does."""
    layers = source.blank.backbone.layers
    keys = jax.random.split(jax.random.key(recipe.seed), len(layers))
    key = keys[layers.index(layer)]
    settings = dataclasses.replace(recipe.settings, estimator=recipe.estimator)
    shrinkage = covariance.oas if recipe.oas else covariance.no_shrinkage
    begun = time.perf_counter()
    fitted, report = detector.fit_mixture(
        key, source.train[layer], keep, settings=settings, shrinkage=shrinkage
    )
    info = {
        "seconds": time.perf_counter() - begun,
        "steps": len(report.log_likelihood),
        "converged": report.converged,
        "num_samples": int(np.sum(np.asarray(report.labels) >= 0)),
    }
    names = [field.name for field in dataclasses.fields(fitted)]
    return Piece({name: np.asarray(getattr(fitted, name)) for name in names}, info)


def _weights(
    fitted: GaussianMixture,
    maps: np.ndarray,
    keep: np.ndarray,
    recipe: Recipe,
    *,
    local: bool,
) -> LocalWeights:
    settings = dataclasses.replace(recipe.settings, local=local)
    return detector.fit_weights(fitted, maps, keep, settings)[0]


def log_maps(fitted: GaussianMixture, local: LocalWeights, maps: np.ndarray) -> Piece:
    """Returns the log-maps of many images, and the median time of one.

    Args:
      fitted: The mixture of a layer.
      local: Its weights.
      maps: Feature maps, ``(n, h, w, d)``.
    """
    prepared = scoring.prepare(fitted, local)
    found, times = [], []
    for value in maps:
        begun = time.perf_counter()
        one = scoring.log_prob_map(fitted, local, value, prepared=prepared)
        found.append(np.asarray(one))
        times.append(time.perf_counter() - begun)
    return Piece({"log_maps": np.stack(found)}, {"seconds": statistics.median(times)})
