"""A model of the paper's size: how long it takes, how large it is.

200 real images (normal solar cells), wide_resnet50_2 at 256 x 256 with random weights
and batch-norm statistics of these images: 256, 512 and 1024 features on 64 x 64, 32 x
32 and 16 x 16 positions, 1000 components to start with, every position a sample. The
file is written exactly, and once more with half-precision rows and merged spikes; both
are loaded and score 40 test images.

The paper: 20 minutes to 2 hours per layer, 3.04 GB, 0.61 s per image.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gladjax import (
    backbone,
    datasets,
    detector,
    images,
    io,
    metrics,
    mixture,
    truncation,
)
from gladjax.backbone import Backbone
from gladjax.datasets import Record
from gladjax.detector import Detector, Layer
from gladjax.experiments import runner
from gladjax.experiments.performance import timing

NUM_TEST = 20  # Of each kind.


def network(paths: list[Path]) -> Backbone:
    """Returns the network, its batch norms set to some images.

    Args:
      paths: Images.
    """
    bare = backbone.random(jax.random.key(0), "wide_resnet50_2", folded=False)
    batch = backbone.preprocess(bare, [images.read(path) for path in paths])
    return backbone.calibrate_batch_norm(bare, batch)


def measure(*, num_images: int = 200, num_components: int = 1000) -> dict[str, Any]:
    """Fits, saves, loads and scores.

    Args:
      num_images: Images to learn from.
      num_components: To start with.

    Returns:
      The record.
    """
    data = datasets.elpv()
    train = [record.image for record in data.train][:num_images]
    net = network(train[:: max(1, num_images // 8)])
    begun = time.perf_counter()
    with runner.Bar("paper size") as bar:
        fitted, info = detector.fit_info(
            jax.random.key(0),
            net,
            images.Lazy(train),
            settings=detector.Settings.paper(num_components=num_components),
            progress=bar,
        )
    seconds = time.perf_counter() - begun
    kinds = [[r for r in data.test if r.label == label] for label in (0, 1)]
    test = [*kinds[0][:NUM_TEST], *kinds[1][:NUM_TEST]]
    with tempfile.TemporaryDirectory() as folder:
        exact = _stored(Path(folder), fitted, half=False)
        small = _stored(Path(folder), merged(fitted), half=True)
    scored = _scores(exact.pop("model"), test)
    small_scored = _scores(small.pop("model"), test)
    change = np.abs(small_scored["log_maps"] - scored["log_maps"])
    relative = change / np.maximum(np.abs(scored["log_maps"]), 1)
    return {
        "num_images": num_images,
        "fit_seconds": seconds,
        "fit_stages": info.seconds,
        "steps": {n: len(i.log_likelihood) for n, i in info.mixtures.items()},
        "peak_memory": runner.peak_memory(),
        "peak_gflops": timing.matrix_peak(),
        **runner.sizes(fitted),
        "derived_bytes": sum(
            value.nbytes
            for layer in fitted.layers.values()
            for value in jax.tree.leaves(layer.prepared)
        ),
        "exact": exact,
        "small": small,
        "score_seconds": scored["seconds"],
        "small_score_seconds": small_scored["seconds"],
        "largest_relative_change": float(relative.max()),
        "image_auroc": scored["image_auroc"],
        "small_image_auroc": small_scored["image_auroc"],
    }


def merged(fitted: Detector) -> Detector:
    """Returns the detector with negligible spikes merged into the noise.

    Args:
      fitted: The detector.
    """
    layers = {}
    for name, layer in fitted.layers.items():
        smaller = jax.tree.map(np.asarray, truncation.merge_spikes(layer.mixture))
        layers[name] = Layer(smaller, layer.local_weights, layer.prepared)
    return Detector(
        fitted.backbone,
        layers,
        fitted.mask,
        fitted.reference,
        fitted.calibration,
        fitted.settings,
    )


def _stored(folder: Path, fitted: Detector, *, half: bool) -> dict[str, Any]:
    """Writes and reads a model; returns it, its size and the time of reading."""
    path = folder / "model.safetensors"
    io.save(path, fitted, half=half)
    begun = time.perf_counter()
    model = io.load(path, backbone=fitted.backbone)
    return {
        "model": model,
        "file_bytes": path.stat().st_size,
        "load_seconds": time.perf_counter() - begun,
        "rows": [len(layer.mixture.rows) for layer in model.layers.values()],
        "mixture_bytes": [
            mixture.num_bytes(layer.mixture) for layer in model.layers.values()
        ],
    }


def _scores(model: Detector, test: list[Record]) -> dict[str, Any]:
    """Returns log-maps, median time without the backbone, and image AUROC."""
    maps, scores, times = [], [], []
    for record in test:
        aligned = detector.align_image(model, images.read(record.image))
        found = detector.features(model, aligned)
        begun = time.perf_counter()
        logs = detector.log_maps(model, found)
        result = detector.summarise(model, logs, aligned, (256, 256))
        scores.append(float(result.score))
        times.append(time.perf_counter() - begun)
        maps.append(np.asarray(result.log_map, np.float64))
    return {
        "log_maps": np.stack(maps),
        "seconds": statistics.median(times),
        "image_auroc": metrics.auroc(
            np.array([r.label for r in test]), np.array(scores)
        ),
    }


def rows(record: dict[str, Any]) -> list[list[str]]:
    """Returns the record as rows of a table, the head first."""
    exact, small = record["exact"], record["small"]
    return [
        ["what", "exact", "half precision", "paper"],
        [
            "fit, three layers, s",
            f"{record['fit_seconds']:.0f}",
            "",
            "1200 to 7200 per layer",
        ],
        [
            "file, MB",
            f"{exact['file_bytes'] / 1e6:.0f}",
            f"{small['file_bytes'] / 1e6:.0f}",
            "3040",
        ],
        ["load, s", f"{exact['load_seconds']:.2f}", f"{small['load_seconds']:.2f}", ""],
        [
            "score without the backbone, s",
            f"{record['score_seconds']:.3f}",
            f"{record['small_score_seconds']:.3f}",
            "0.61",
        ],
        [
            "image AUROC (random weights)",
            f"{record['image_auroc']:.4f}",
            f"{record['small_image_auroc']:.4f}",
            "",
        ],
        [
            "largest relative change of a log-map",
            "0",
            f"{record['largest_relative_change']:.1e}",
            "",
        ],
        ["peak memory, GiB", f"{record['peak_memory'] / 2**30:.2f}", "", ""],
    ]
