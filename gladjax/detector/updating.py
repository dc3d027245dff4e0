"""Learning from further images, without those learnt from before."""

import dataclasses

import numpy as np

from gladjax import cache, covariance, online, weights
from gladjax.covariance import Shrinkage
from gladjax.detector import tiles
from gladjax.detector.collecting import collect, on_grid
from gladjax.detector.layers import fit_weights
from gladjax.detector.model import Detector, Images, Kept, Layer, Progress, Settings
from gladjax.mixture import completed, roomy
from gladjax.online import Schedule


def update(
    detector: Detector,
    images: Images,
    *,
    schedule: Schedule | None = None,
    growth: float = 0.1,
    shrinkage: Shrinkage = covariance.oas,
    progress: Progress | None = None,
) -> Detector:
    """Learns from further images of good products.

    Args:
      detector: A detector fitted with ``Settings(keep_statistics=True)``.
      images: RGB images, 0 to 255, of any sizes.
      schedule: How fast the old is forgotten, see `online.update`; by default every
        image weighs the same. The local weights count all images alike.
      growth: New components, see `online.update`.
      shrinkage: Shrinkage intensity of the covariances.
      progress: Called with a stage, what is done of it, and of how much.

    Returns:
      The detector, without calibration: scores of the old one are not its own.

    Raises:
      ValueError: If there is no image, or the detector did not keep its statistics,
        or (an `ImageError`) an image has values not finite or of another range.
    """
    cache.release_programs()
    if len(images) == 0:
        raise ValueError("there is no image to learn from")
    if any(layer.kept is None for layer in detector.layers.values()):
        raise ValueError(
            "the detector kept no statistics: fit it with keep_statistics=True, on the "
            "command line with --keep-statistics"
        )
    maps, valid, _ = collect(detector, images, progress)
    layers = {}
    for done, (name, layer) in enumerate(detector.layers.items(), start=1):
        assert layer.kept is not None
        keep = on_grid(valid, maps[name])
        mixture, statistics, _ = online.update(
            layer.mixture,
            layer.kept.statistics,
            maps[name].reshape(-1, maps[name].shape[-1]),
            schedule=schedule,
            growth=growth,
            valid=keep.ravel(),
            min_count=detector.settings.min_count,
            shrinkage=shrinkage,
        )
        kept = Kept(statistics, layer.kept.counts)
        ready = roomy(completed(mixture))
        updated = Layer(ready, layer.local_weights, layer.prepared, kept)
        layers[name] = _weighed(updated, maps[name], keep, detector.settings)
        if progress is not None:
            progress("update", done, len(detector.layers))
    return dataclasses.replace(detector, layers=layers, calibration=None)


def _weighed(
    layer: Layer, maps: np.ndarray, keep: np.ndarray, settings: Settings
) -> Layer:
    """Returns a layer with the local weights of all images."""
    assert layer.kept is not None
    counts = layer.kept.counts
    shares, info = fit_weights(layer.mixture, maps, keep, settings, before=counts)
    if info is not None:
        counts = weights.label_counts(info.labels, before=counts)
    return Layer(
        mixture=layer.mixture,
        local_weights=shares,
        prepared=tiles.prepare(layer.mixture, shares, settings),
        kept=Kept(layer.kept.statistics, counts),
    )
