"""Does a false-positive rate mean what it says? On real normal images, twenty splits.

    python -m gladjax.experiments.false_positives --output OUT --data-root DIR

A detector is fitted once to a part of the normal images of ELPV and, with
``--data-root``, of MVTec's transistor. Its scores of the other normal images are split
at random into calibration and test, twenty times. Conformal p-values promise that the
number of false positives among ``m`` test images is beta-binomial: with ``a =
floor(alpha (n + 1))``, its law is ``BetaBinomial(m, a, n + 1 - a)``. Expected: inside
the central 95 % interval in at least 17 of 20 splits at 5 % and at 10 %.

Notation: ``n`` calibration images, ``m`` test images, ``alpha`` the rate.

Differs from the reference in: (1) the paper has no threshold.

Reference: Vovk, Gammerman, Shafer. "Algorithmic Learning in a Random World". 2005.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from gladjax import backbone, calibrate, datasets, detector, images, streaming
from gladjax.backbone import Backbone
from gladjax.experiments import runner

RATES = (0.05, 0.1)
NUM_SPLITS = 20


def interval(rate: float, n: int, m: int, *, level: float = 0.95) -> tuple[int, int]:
    """Returns the central interval of the number of false positives.

    Args:
      rate: The false-positive rate asked for.
      n: Number of calibration images.
      m: Number of test images.
      level: Probability of the interval, at least.

    Returns:
      The smallest and the largest number inside.

    Example:
      >>> interval(0.5, 1, 4)
      (0, 4)
    """
    a = math.floor(rate * (n + 1) * (1 + 1e-12))
    b = n + 1 - a
    if a < 1:
        return 0, 0

    def log_beta(x: int, y: int) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    law = [
        math.exp(
            math.lgamma(m + 1)
            - math.lgamma(k + 1)
            - math.lgamma(m - k + 1)
            + log_beta(k + a, m - k + b)
            - log_beta(a, b)
        )
        for k in range(m + 1)
    ]
    below = np.cumsum(law)
    tail = (1 - level) / 2
    low = int(np.searchsorted(below, tail, side="left"))
    high = int(np.searchsorted(below, 1 - tail, side="left"))
    return low, min(high, m)


def splits(
    scores: np.ndarray, *, num_calibration: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Counts false positives over random splits.

    Args:
      scores: Scores of normal images that were not learnt from.
      num_calibration: How many of them calibrate; the others test.
      seed: Of the splits.

    Returns:
      For each rate: asked rate, interval, counts, and how many lie inside.
    """
    n, m = num_calibration, len(scores) - num_calibration
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(scores)) for _ in range(NUM_SPLITS)]
    rows = []
    for rate in RATES:
        low, high = interval(rate, n, m)
        counts = []
        for order in orders:
            limit = calibrate.threshold(scores[order[:n]], rate)
            if limit is None:
                raise ValueError(f"{n} images are too few for a rate of {rate}")
            counts.append(int(np.sum(scores[order[n:]] > limit)))
        rows.append(
            {
                "rate": rate,
                "num_calibration": n,
                "num_test": m,
                "interval": [low, high],
                "false_positives": counts,
                "mean_rate": float(np.mean(counts) / m),
                "inside": int(sum(low <= count <= high for count in counts)),
                "num_splits": NUM_SPLITS,
            }
        )
    return rows


def held_out_scores(
    network: Backbone,
    paths: Sequence[Path],
    *,
    num_train: int,
    settings: detector.Settings,
    seed: int = 0,
) -> np.ndarray:
    """Fits to the first images of a random order, and scores the others.

    Args:
      network: The backbone.
      paths: Normal images.
      num_train: How many to learn from.
      settings: How to fit.
      seed: Of order and fit.
    """
    order = np.random.default_rng(seed).permutation(len(paths))
    shuffled = [paths[i] for i in order]
    train, rest = shuffled[:num_train], shuffled[num_train:]
    with runner.Bar("false positives") as bar:
        fitted = detector.fit(
            jax.random.key(seed),
            network,
            images.Lazy(train),
            settings=settings,
            progress=bar,
        )
        found = []
        for result in streaming.score_many(fitted, images.Lazy(rest)):
            if isinstance(result, images.ImageError):
                raise result
            found.append(result.score)
            bar("held-out images", len(found), len(rest))
    return np.array(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gladjax.experiments.false_positives"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, help="folder of MVTec AD")
    parser.add_argument("--num-components", type=int, default=100)
    parser.add_argument("--max-samples", type=int, default=50_000)
    options = parser.parse_args(arguments)
    settings = detector.Settings(
        num_components=options.num_components, max_samples=options.max_samples
    )
    with runner.errors():
        network = backbone.load("efficientnet_lite0")
        cells = [r.image for r in datasets.elpv().records if r.label == 0]
        studies = {"elpv": (cells, 200, 150)}
        if options.data_root is not None:
            data = datasets.mvtec(options.data_root, "transistor")
            normal = [r.image for r in data.records if r.label == 0]
            studies["transistor"] = (normal, 120, 80)
        records = []
        for name, (paths, num_train, num_calibration) in studies.items():
            scores = held_out_scores(
                network, paths, num_train=num_train, settings=settings
            )
            for row in splits(scores, num_calibration=num_calibration):
                records.append({"data": name, "num_train": num_train, **row})
            runner.save_records(options.output, records)
    head = ("data", "rate", "n", "m", "interval", "mean rate", "inside")
    rows = [
        (
            str(r["data"]),
            f"{r['rate']:g}",
            str(r["num_calibration"]),
            str(r["num_test"]),
            "{}-{}".format(*r["interval"]),
            f"{r['mean_rate']:.3f}",
            f"{r['inside']}/{r['num_splits']}",
        )
        for r in records
    ]
    click.echo(runner.table([head, *rows]))


if __name__ == "__main__":
    main()
