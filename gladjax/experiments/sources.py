"""The features of a data set, extracted once and kept.

Everything that comes after the features is in `gladjax.experiments.stages`. Images may
be changed before all else (moved, corrupted), and may be aligned; both are part of the
description under which the features are found again.

Notation: ``m`` training images, ``n`` test images, ``H W`` the size of the backbone's
images.

Differs from the reference in: there is none.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.1.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gladjax import datasets, detector, features, masks, neighbourhoods
from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.datasets import Record as Listed
from gladjax.detector import Aligned, Detector, Settings
from gladjax.detector.collecting import CANDIDATES, NO_IMAGE, suited
from gladjax.experiments import store
from gladjax.experiments.store import Piece

Prepare = Callable[[str, int, np.ndarray], np.ndarray]
Read = Callable[[Path], np.ndarray]
Progress = Callable[[str, int, int], None]
Maps = dict[str, np.ndarray]
PART = 64  # Images of a piece.
TIMED = 8  # Images of which the time of the features is the median.


class Source(NamedTuple):
    """Feature maps of a data set, and the frame they are in.

    Attributes:
      folder: Where pieces are kept.
      described: How the features came about.
      blank: A detector without layers: backbone, mask, reference, settings.
      train: Feature maps of the training images by layer, ``(m, h, w, d)``.
      test: Those of the test images.
      valid: Pixels of the training images from inside, ``(m, H, W)`` or ``(1, H, W)``.
      aligned: Motions of the test images, without their pixels.
      seconds: Median time per test image of reading, alignment and features.
    """

    folder: Path
    described: dict[str, Any]
    blank: Detector
    train: Maps
    test: Maps
    valid: np.ndarray
    aligned: Sequence[Aligned]
    seconds: dict[str, float]


def extract(
    folder: Path,
    dataset: Dataset,
    network: Backbone,
    *,
    settings: Settings,
    prepare: Prepare | None = None,
    prepared: str = "",
    progress: Progress | None = None,
) -> Source:
    """Returns the feature maps of the images of a data set.

    Args:
      folder: Where pieces are kept.
      dataset: The data set.
      network: The backbone.
      settings: Says how images are aligned, if at all.
      prepare: Changes an image of a split, by its number, before all else.
      prepared: Says what ``prepare`` does.
      progress: Called with a stage, what is done of it, and of how much.

    Returns:
      Maps of training and test images.
    """
    side, finest = settings.neighbourhood, settings.finest
    network = neighbourhoods.seen(network, side, finest=finest)
    paths = [(r.split, str(r.image), r.image.stat().st_size) for r in dataset.records]
    read = datasets.reader(dataset)
    blank, reference = _blank(dataset, network, settings, read, prepare)
    described = {
        "data": dataset.name,
        "category": dataset.category,
        "files": hashlib.sha256(repr(paths).encode()).hexdigest(),
        "backbone": [network.name, network.sha256, *network.image_size],
        "layers": list(network.layers),
        "motion": [settings.motion, settings.coarse, reference],
        "prepared": prepared,
    }
    found, seconds = {}, {}
    for split, records in (("train", dataset.train), ("test", dataset.test)):
        pieces = []
        for first in range(0, len(records), PART):
            reader = _Reader(blank, read, prepare, progress, split, len(records))
            chosen = records[first : first + PART]
            part = {**described, "split": split, "first": first}

            def make(reader=reader, chosen=chosen, first=first) -> Piece:  # noqa: ANN001
                return reader.piece(chosen, first)

            pieces.append(store.get(folder, part, make, name="features"))
        found[split] = _joined([piece.arrays for piece in pieces])
        for name in pieces[0].info["seconds"] if pieces else ():
            times = [piece.info["seconds"][name] for piece in pieces]
            seconds[name] = statistics.median(t for t in times if t is not None)
    train, test, layers = found["train"], found["test"], network.layers
    moved = zip(test["valid"], test["transform"], strict=True)
    return Source(
        folder=folder,
        described=described,
        blank=blank,
        train={name: train[name] for name in layers},
        test={name: test[name] for name in layers},
        valid=train["valid"] if settings.motion else train["valid"][:1],
        aligned=[Aligned(NO_IMAGE, v, T, None) for v, T in moved],
        seconds=seconds,
    )


def _joined(parts: Sequence[Maps]) -> Maps:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _blank(
    dataset: Dataset,
    network: Backbone,
    settings: Settings,
    read: Read,
    prepare: Prepare | None,
) -> tuple[Detector, int | None]:
    """Returns a detector without layers, and the number of its reference, if any."""
    frame = number = None
    if settings.motion:
        known = [
            one if prepare is None else prepare("train", i, one)
            for i, one in enumerate(
                read(record.image) for record in dataset.train[:CANDIDATES]
            )
        ]
        number, frame = suited(jax.random.key(0), network, known, settings)
    mask = np.asarray(masks.margin(network.image_size, fraction=settings.margin))
    return Detector(network, {}, mask, frame, None, settings), number


class _Reader:
    """Reads, prepares and aligns images of a split, and notes how long it takes."""

    def __init__(
        self,
        blank: Detector,
        read: Read,
        prepare: Prepare | None,
        progress: Progress | None,
        split: str,
        total: int,
    ) -> None:
        self._blank, self._read = blank, read
        self._prepare, self._progress = prepare, progress
        self._split, self._total = split, total
        self._times: dict[str, list[float]] = {"read": [], "align": [], "features": []}
        self._aligned: list[Aligned] = []

    def piece(self, records: Sequence[Listed], first: int) -> Piece:
        """Returns the features of some images, of which the first has this number."""
        arrays = features.extract_batches(
            self._blank.backbone, self._images(records, first)
        )
        arrays["valid"] = np.stack([one.valid for one in self._aligned])
        arrays["transform"] = np.stack([one.transform for one in self._aligned])
        seconds = {
            name: statistics.median(times) if times else None
            for name, times in self._times.items()
        }
        return Piece(arrays, {"seconds": seconds})

    def _images(self, records: Sequence[Listed], first: int) -> Iterator[np.ndarray]:
        tell, prepare = self._progress, self._prepare
        for number, record in enumerate(records, start=first):
            begun = time.perf_counter()
            image = self._read(record.image)
            if prepare is not None:
                image = prepare(self._split, number, image)
            read = time.perf_counter()
            item = detector.align_image(self._blank, image)
            aligned = time.perf_counter()
            self._times["read"].append(read - begun)
            self._times["align"].append(aligned - read)
            self._aligned.append(item._replace(image=NO_IMAGE))
            if number < TIMED:
                detector.features(self._blank, item)
                self._times["features"].append(time.perf_counter() - aligned)
            if tell is not None:
                tell(f"features, {self._split}", number + 1, self._total)
            yield item.image


def subset(
    source: Source, train: Sequence[int] | np.ndarray, *, test: str, name: str
) -> Source:
    """Returns a source that learns from some training images and tests on others.

    Args:
      source: The features.
      train: Numbers of the images to learn from.
      test: ``"test"`` for the test images, ``"rest"`` for the other training images.
      name: Says which images these are.
    """
    chosen = np.asarray(train, int)
    rest = np.setdiff1d(np.arange(len(next(iter(source.train.values())))), chosen)
    valid = source.valid if len(source.valid) == 1 else source.valid[chosen]
    described = {**source.described, "train": [name, chosen.tolist()]}
    out = source._replace(
        described=described,
        train={layer: value[chosen] for layer, value in source.train.items()},
        valid=valid,
    )
    if test == "test":
        return out
    shape = (len(chosen) + len(rest), *valid.shape[1:])
    inside, still = np.broadcast_to(source.valid, shape), np.eye(3, dtype=np.float32)
    return out._replace(
        test={layer: value[rest] for layer, value in source.train.items()},
        aligned=[Aligned(NO_IMAGE, inside[i], still, None) for i in rest],
    )


def summarise(
    source: Source, maps: Mapping[str, np.ndarray], *, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Turns the log-maps of the layers into scores and heat maps.

    Args:
      source: The features' frame.
      maps: Log-maps of all images, by layer.
      shape: Height and width of the heat maps.

    Returns:
      Scores ``(n,)``, heat maps ``(n, *shape)``, and the median seconds of one.
    """
    scores, heats, times = [], [], []
    for number, aligned in enumerate(source.aligned):
        begun = time.perf_counter()
        layers = {name: value[number] for name, value in maps.items()}
        scored = detector.summarise(source.blank, layers, aligned, shape)
        times.append(time.perf_counter() - begun)
        scores.append(scored.score)
        heats.append(scored.heat_map)
    return np.array(scores), np.stack(heats), statistics.median(times)
