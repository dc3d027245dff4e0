"""Memory of large images: a tile, arrays of the image's size, and no features.

As a program, the measurements one by one, of images of any size:

    PYTHONPATH=tests python tests/test_tiles_memory.py score 4096
"""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax import backbone, detector, files, weights
from gladjax.detector import Settings, tiles

CELL, CHANNELS = 2, 64  # Sixteen numbers for every pixel.
FEWER, MORE = 2, 22  # Images.
FEW = {"num_components": 1, "max_steps": 2, "max_samples": 2048, "tile_overlap": 8}
LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is read from /proc"
)


def _maps(kernel, batch):
    """One layer of many features on small cells."""
    found = jax.lax.conv_general_dilated(
        batch, kernel, (CELL, CELL), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return {"fine": jnp.tanh(found)}


def network(side):
    kernel = np.random.default_rng(0).normal(size=(5, 5, 3, CHANNELS)) / 4
    return backbone.from_function(
        _maps,
        jnp.asarray(kernel, jnp.float32),
        name="one layer",
        layers=("fine",),
        image_size=(side, side),
    )


def picture(number, side):
    levels = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3))
    return np.kron(levels.astype(np.uint8), np.ones((8, 8, 1), np.uint8))


class Pictures:
    """Images that are made when they are asked for."""

    def __init__(self, count, side):
        self._count, self._side = count, side

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        if i >= self._count:
            raise IndexError(i)
        return picture(i, self._side)


class Peak:
    """The most memory, in bytes, that no file is behind, above that at the start."""

    def __enter__(self):
        self._done, self._start = threading.Event(), self._now()
        self._most = self._start
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.bytes = self._most - self._start

    def _watch(self):
        while not self._done.is_set():
            self._most = max(self._most, self._now())
            time.sleep(0.002)

    @staticmethod
    def _now():
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(s for s in lines if s.startswith("RssAnon")).split()[1])


def fit(count, side):
    return detector.fit_info(
        jax.random.key(0),
        network(side),
        Pictures(count, side),
        settings=Settings(**FEW, tile_rows=2, tile_columns=2),
        folds=2,
    )[0]


def fits(side):
    """Peaks of fits: of few images, of more, and of more with features in memory."""
    fit(2, side)  # Compiles.
    found = {}
    for name, count in (("few", FEWER), ("more", MORE), ("held", MORE)):
        if name == "held":
            files.scratch = np.zeros
        peaks = [_peak_of_a_fit(count, side) for _ in range(1 + (name != "held"))]
        found[name] = min(peaks)
    return found


def _peak_of_a_fit(count, side):
    with Peak() as peak:
        fit(count, side)
    return peak.bytes


def score(side):
    """Peak of a score in tiles, of a model whose weights are everywhere the same."""
    small = fit(2, 256)
    settings = dataclasses.replace(small.settings, tile_rows=8, tile_columns=8)
    layer = small.layers["fine"]
    local = weights.uniform(layer.mixture, (side // CELL, side // CELL))
    ready = tiles.prepare(layer.mixture, local, settings)
    large = dataclasses.replace(
        small,
        backbone=network(side),
        mask=np.ones((side, side), bool),
        layers={
            "fine": dataclasses.replace(layer, local_weights=local, prepared=ready)
        },
        settings=settings,
    )
    image = picture(0, side)
    detector.score(large, image)  # Compiles.
    with Peak() as peak:
        found = detector.score(large, image)
    assert np.isfinite(found.score)
    assert found.heat_map.shape == (side, side)
    return {"score": peak.bytes}


# Freed memory goes back at once; how much glibc keeps differs from run to run.
RETURNED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def measured(what, side):
    """Runs a function of this module in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(side)],
        env={**os.environ, **RETURNED},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@LINUX
def test_a_fit_in_tiles_does_not_hold_the_features():
    """What more images take is a small part of their features, which the check sees."""
    found = measured("fits", 128)
    features = (MORE - FEWER) * (128 // CELL) ** 2 * CHANNELS * 4
    assert found["more"] - found["few"] < 0.35 * features
    assert found["held"] - found["few"] > 0.65 * features


@LINUX
def test_a_large_image_is_scored_without_its_features():
    found = measured("score", 1024)
    assert found["score"] < (1024 // CELL) ** 2 * CHANNELS * 4


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](int(sys.argv[2]))))
