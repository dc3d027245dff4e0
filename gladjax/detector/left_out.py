"""Scores of the training images, each under what the other images alone would give.

With hard labels everything that is learnt is a sum over images: the counts, means and
scatters of the components, and the counts behind the local weights. So a fold of images
is left out by leaving its samples out of these sums: one M-step and one subtraction per
layer, no fit. Labels stay those of all images, which makes the scores slightly too
small; that a fold's images are missing from the model makes them slightly too large
(experiments, `false_positives`, measures what remains).

Notation: ``m`` images, ``c`` of them with their copies, ``f`` folds, ``k`` components,
``d`` features.

Differs from the reference in
  1. The paper does not choose a threshold.

Reference: Vovk, "Cross-conformal predictors", Annals of Mathematics and AI 74, 2015.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gladjax import devices, mixture, programs, scoring, staged, weights
from gladjax.covariance import Shrinkage
from gladjax.detector.inference import read_off
from gladjax.detector.model import Detector, Settings
from gladjax.mixture import GaussianMixture
from gladjax.steps import Steps

FOLDS = 10  # Parts of the images that are left out in turn, where there are enough.
FEW = 100  # Images, at most, that may be too few for local weights.
LOOKED = 20  # Images, at least, by which that is told, where there are as many.
Labels = tuple[Int[np.ndarray, " n"], Int[np.ndarray, "c h w"] | None]


def deal(count: int, folds: int, *, never: int | None = None) -> Int[np.ndarray, " m"]:
    """Deals images out to folds, one after the other.

    Args:
      count: Number of images.
      folds: Number of folds, at most one per image; 0 to leave none out.
      never: Number of an image that is never left out.

    Returns:
      The fold of each image, -1 for those that are never left out.
    """
    places = np.full(count, -1)
    dealt = np.flatnonzero(np.arange(count) != never) if folds else np.arange(0)
    places[dealt] = np.arange(len(dealt)) % max(1, min(folds, len(dealt)))
    return places


def looked_at(places: Int[np.ndarray, " m"]) -> int:
    """Returns how many folds, the first ones, tell whether images are too few.

    Args:
      places: Fold of each image, from `deal`.
    """
    sizes = np.cumsum(np.bincount(places[places >= 0]))
    return min(int(np.searchsorted(sizes, LOOKED)) + 1, len(sizes))


def roomy(
    fitted: GaussianMixture,
    labels: Int[np.ndarray, " n"],
    places: Int[np.ndarray, " m"],
) -> GaussianMixture:
    """Returns a mixture whose flat arrays are large enough for every fold, padded.

    So one program serves it and what is left of it without a fold.

    Args:
      fitted: The mixture of all images.
      labels: Of the samples that it was fitted to, -1 for others.
      places: Fold of each image, from `deal`.
    """
    k, d = fitted.means.shape
    fold = np.repeat(places, len(labels) // len(places))
    whole = np.bincount(labels[labels >= 0], minlength=k)
    entries = 0
    for f in range(places.max(initial=-1) + 1):
        gone = np.bincount(labels[(fold == f) & (labels >= 0)], minlength=k)
        rest = whole - gone
        entries = max(entries, int(np.sum(np.where(rest < d, rest, 0) ** 2)))
    return mixture.roomy(fitted, inverses=entries)


def log_maps(
    fitted: GaussianMixture,
    maps: Float[np.ndarray, "c h w d"],
    labels: Labels,
    places: Int[np.ndarray, " m"],
    settings: Settings,
    shrinkage: Shrinkage,
) -> tuple[Float[np.ndarray, "m h w"], Float[np.ndarray, "m h w"] | None]:
    """Returns the log-maps of a layer, each under the other folds.

    Args:
      fitted: The mixture of all images, `roomy`.
      maps: Feature maps, those of an image before those of its copies.
      labels: Of the samples that the mixture was fitted to, -1 for others; and those
        behind the local weights, None where weights are not local.
      places: Fold of each image, from `deal`; its copies are left out with it.
      settings: Of the fit.
      shrinkage: Shrinkage intensity.

    Returns:
      The maps of the images, not of copies; NaN for images that are never left out. And
      those under global weights, where weights are local and images may be too few for
      that, else None; NaN but for the folds that are `looked_at`.
    """
    m, (h, w, d), copies = len(places), maps.shape[1:], len(maps) // len(places)
    places_of_all = np.repeat(places, copies)
    k, folds = len(fitted.means), np.unique(places[places >= 0]).tolist()
    own, where = labels
    index = np.flatnonzero(own >= 0)
    given = staged.gathered(maps.reshape(-1, d), index)
    missing = len(given.used) - len(index)
    fold = np.pad(places_of_all[index // (h * w)], (0, missing), constant_values=-1)
    label = np.pad(own[index], (0, missing), constant_values=-1)
    size = int(np.bincount(places[places >= 0]).max(initial=1))
    high = weights.band(h, w)

    nothing = jnp.zeros((high, w, k), jnp.float32)
    both = where is not None and m <= FEW and settings.min_kept > 0
    looked = looked_at(places) if both else 0

    def counted(f: int, first: int) -> Float[Array, "r w k"]:
        if where is None:
            return nothing
        some = where if f < 0 else where[places_of_all == f]
        rows = slice(first, first + high)
        return weights.around(some, k, rows, radius=settings.radius)

    # Of all images; where there is one band, not for every fold anew.
    every = functools.lru_cache(maxsize=1)(partial(counted, -1))
    # As many components as the fit had room for: its M-step is this one.
    most = max(k, staged.largest(len(index), settings.min_count))
    steps = Steps(given, most, settings.min_count, shrinkage)
    batch = size if devices.sizes().together else 1
    found = np.full((1 + both, m, h, w), np.nan, np.float32)
    rest = None
    for f in folds:
        out = np.flatnonzero(places == f)
        rest = steps.estimate(rest, np.where(fold == f, -1, label))
        some = mixture.padded(
            mixture.first(rest, k), len(fitted.rows), len(fitted.inverses)
        )
        known = scoring.bounds(some)
        for top in range(0, h, high):
            counts = [every(top) - counted(f, top), nothing][: 1 + (f < looked)]
            shares = [weights.weigh(some, c, settings.prior) for c in counts]
            logs = [jnp.log(share).reshape(k, -1) for share in shares]
            ready = [scoring.Prepared(known, scoring.added(some, log)) for log in logs]
            for first in range(0, len(out), batch):
                at, rows = out[first : first + batch], slice(top, top + high)
                part = weights.filled(maps[copies * at, rows], batch)
                x = np.ldexp(part, given.scaled)
                for into, own in zip(found, ready, strict=False):
                    values = scoring.log_prob_maps(some, own, x)
                    into[at, rows] = np.asarray(values)[: len(at)]
    found += np.float32(given.scaled * d * math.log(2))
    return found[0], (found[1] if both else None)


def scores(
    detector: Detector,
    maps: Mapping[str, Float[np.ndarray, "m _h _w"]],
    valid: Sequence[Bool[np.ndarray, "h w"]],
    places: Int[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """Returns the scores of log-maps.

    Args:
      detector: The detector.
      maps: Log-maps of every layer, from `log_maps`.
      valid: Pixels that count, one mask per image or one for all.
      places: Fold of each image.

    Returns:
      Scores, NaN for images that are never left out or show nothing.
    """
    found = np.full(len(places), np.nan)
    for i in np.flatnonzero(places >= 0):
        counted = np.asarray(detector.mask) & valid[int(i) if len(valid) > 1 else 0]
        whole = {name: jnp.asarray(one[i]) for name, one in maps.items()}
        found[i] = float(_score(whole, counted, detector.settings.quantile)[2])
    return found


_score = programs.Program(read_off, static=("quantile",))
