"""The picture of the README: input, aligned input, anomaly map.

    python -m gladjax.experiments.picture --output experiments/picture

The images are drawn by `gladjax.datasets.draw`, so nothing of anyone's photographs is
in it. The plate in the test image is turned and shifted, and scratched.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from gladjax import align, backbone, datasets, detector, images, plots


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes ``glad.png``.

    Args:
      arguments: The command line; the process's own by default.
    """
    parser = argparse.ArgumentParser(prog="python -m gladjax.experiments.picture")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    network = backbone.load("efficientnet_lite0")
    train = [
        datasets.draw("plate", number=i, size=256)[0].astype(np.float32)
        for i in range(30)
    ]
    settings = detector.Settings(num_components=100, motion="euclidean")
    fitted = detector.fit(jax.random.key(0), network, train, settings=settings)
    image, _ = datasets.draw("plate", kind="scratch", number=1, size=256)
    angle = np.deg2rad(6.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 20.0], [np.sin(angle), np.cos(angle), -6.0]]
    )
    motion = np.vstack([turn, [0, 0, 1]]).astype(np.float32)
    moved = np.asarray(align.warp(image, motion, (256, 256))[0])
    scored = detector.score(fitted, moved)
    aligned = scored.alignment.image
    heat = np.asarray(scored.heat_map)
    parts = [moved, aligned, plots.overlay(moved, heat)]
    rule = np.full((256, 8, 3), 255, np.uint8)
    row = [images.levels(part) for part in parts]
    picture = np.concatenate([row[0], rule, row[1], rule, row[2]], axis=1)
    options.output.mkdir(parents=True, exist_ok=True)
    images.write_png(options.output / "glad.png", picture)


if __name__ == "__main__":
    main()
