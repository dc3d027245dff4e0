"""Collecting what is learnt from: images aligned with a reference, their features."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from gladjax import align, masks
from gladjax.backbone import Backbone
from gladjax.detector import augment, tiles
from gladjax.detector.inference import align_image, resized
from gladjax.detector.model import Aligned, Detector, Images, Progress, Settings
from gladjax.images import place

CANDIDATES = 24  # Images, the first ones, of which one may become the reference.
NO_IMAGE = np.zeros((0, 0, 3), np.float32)


def suited(
    key: Key[Array, ""], backbone: Backbone, images: Images, settings: Settings
) -> tuple[int, np.ndarray]:
    """Returns the image that others are best aligned with, its number first.

    Args:
      key: Randomness.
      backbone: The network, for the size of the images.
      images: RGB images, 0 to 255; the first ones are looked at.
      settings: Say by which motion.
    """
    found, known = 0, sampled(backbone, images)
    if len(known) > 2:
        rules = {"motion": settings.motion, "coarse": settings.coarse}
        found = align.choose_reference(jax.random.fold_in(key, 0), known, **rules)
    return found, known[found]


def sampled(backbone: Backbone, images: Images) -> np.ndarray:
    """Returns the images of which one may become the reference.

    Args:
      backbone: The network, for the size of the images.
      images: RGB images, 0 to 255; the first ones are looked at.
    """
    count = min(len(images), CANDIDATES)
    return np.stack(
        [resized(backbone, images[i], place(images, i)) for i in range(count)]
    )


def collect(
    detector: Detector, images: Images, progress: Progress | None
) -> tuple[dict[str, np.ndarray], list[np.ndarray], list[Aligned]]:
    """Aligns images and extracts their features.

    Args:
      detector: The detector; its layers are not used.
      images: RGB images, 0 to 255.
      progress: Called as things go on.

    Returns:
      Feature maps, those of an image before those of its copies; validity masks (one
      for all without alignment), motions without their pixels.
    """
    kind = detector.settings.augment
    aligned: list[Aligned] = []
    valid: list[np.ndarray] = []

    def prepared() -> Iterator[np.ndarray]:
        for i in range(len(images)):
            item = align_image(detector, images[i], name=place(images, i))
            if detector.reference is not None or not valid:
                valid.append(item.valid)
            aligned.append(item._replace(image=NO_IMAGE, valid=NO_IMAGE[..., 0] > 0))
            if progress is not None:
                progress("features", i + 1, len(images))
            yield from augment.copies(item.image, kind)

    given = tiles.plan(detector.backbone, detector.settings)
    count = len(images) * augment.number(kind, detector.backbone.image_size)
    maps = tiles.stacked(detector.backbone, given, prepared(), count)
    return maps, valid, aligned


def on_grid(valid: Sequence[np.ndarray], maps: np.ndarray) -> np.ndarray:
    """Returns which cells count: from one mask per image, or one for all.

    Args:
      valid: Pixels of the images that count.
      maps: Feature maps, ``(m, h, w, d)``.

    Returns:
      Cells that count, ``(m, h, w)``.
    """
    grid = maps.shape[1:3]
    keep = np.stack([np.asarray(masks.to_grid(v, grid)) for v in valid])
    return np.broadcast_to(keep, maps.shape[:3])
