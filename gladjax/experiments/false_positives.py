"""Does a false-positive rate mean what it says? On real normal images, twenty splits.

    python -m gladjax.experiments.false_positives --output OUT --data-root DIR

A detector is fitted once to a part of the normal images of ELPV and, with
``--data-root``, of MVTec's transistor. Its scores of the other normal images are split
at random into calibration and test, twenty times. Conformal p-values promise that the
number of false positives among ``m`` test images is beta-binomial: with ``a =
floor(alpha (n + 1))``, its law is ``BetaBinomial(m, a, n + 1 - a)``. Expected: inside
the central 95 % interval in at least 17 of 20 splits at 5 % and at 10 %.

With ``--left-out`` the images that calibrate are those that the detector learns from,
each left out in turn (`gladjax.detector.left_out`): twenty random sets of 20, 50 and
100 images, and the false positives among others. Labels are those of a fit to all, so
the promise is not proved; this is its measurement. With ``--refit`` too they are
scored by fits to the others (`gladjax.calibrate.scores`): what the same rule gives
where nothing is saved.

Notation: ``n`` calibration images, ``m`` test images, ``alpha`` the rate.

Differs from the reference in: (1) the paper has no threshold.

Reference: Vovk, Gammerman, Shafer. "Algorithmic Learning in a Random World". 2005.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from gladjax import backbone, calibrate, datasets, detector, images
from gladjax.backbone import Backbone
from gladjax.experiments import runner

RATES = (0.05, 0.1)
NUM_SPLITS = 20
CATEGORIES = ("elpv", "transistor", "toothbrush", "screw")


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
        return runner.image_scores(fitted, rest)


def left_out_splits(
    network: Backbone,
    paths: Sequence[Path],
    *,
    num_train: int,
    num_test: int,
    num_splits: int,
    settings: detector.Settings,
    refit: bool = False,
) -> list[dict[str, Any]]:
    """Counts false positives of thresholds from images that were left out.

    Args:
      network: The backbone.
      paths: Normal images.
      num_train: How many to learn from, and to calibrate with.
      num_test: How many of the others to score, at most.
      num_splits: Number of random splits.
      settings: How to fit.
      refit: Whether to leave images out by fits to the others.

    Returns:
      For each rate: asked rate, interval, counts, and how many lie inside.
    """
    m = min(num_test, len(paths) - num_train)
    counts = np.zeros((len(RATES), num_splits), int)
    fit_seconds, alone = [], []
    with runner.Bar(f"{num_train} images") as bar:
        for seed in range(num_splits):
            order = np.random.default_rng(seed).permutation(len(paths))
            train = [paths[i] for i in order[:num_train]]
            test = [paths[i] for i in order[num_train : num_train + m]]
            fitted, info = detector.fit_info(
                jax.random.key(seed),
                network,
                images.Lazy(train),
                settings=settings,
                folds=detector.FOLDS,
            )
            known, seconds = info.left_out, info.seconds["left out"]
            fit_seconds.append(sum(info.seconds.values()) - seconds)
            if refit:
                before = time.perf_counter()
                known = _refitted(network, train, fitted.settings, seed)
                seconds = time.perf_counter() - before
            assert known is not None
            alone.append(seconds)
            scores = runner.image_scores(fitted, test)
            for row, rate in enumerate(RATES):
                p = calibrate.p_values(known, scores)
                counts[row, seed] = int(np.sum(p <= rate))
            bar("splits", seed + 1, num_splits)
    rows = []
    for row, rate in enumerate(RATES):
        low, high = interval(rate, num_train, m)
        inside = (low <= counts[row]) & (counts[row] <= high)
        rows.append(
            {
                "rate": rate,
                "num_calibration": num_train,
                "num_test": m,
                "interval": [low, high],
                "false_positives": counts[row].tolist(),
                "mean_rate": float(counts[row].mean() / m),
                "inside": int(inside.sum()),
                "num_splits": num_splits,
                "fit_seconds": float(np.median(fit_seconds)),
                "left_out_seconds": float(np.median(alone)),
            }
        )
    return rows


def _refitted(
    network: Backbone, paths: Sequence[Path], settings: detector.Settings, seed: int
) -> np.ndarray:
    """Returns the scores of images, each under a fit to the other folds."""
    key, found = jax.random.key(seed), np.zeros(len(paths))
    count = min(detector.FOLDS, len(paths))
    for part in calibrate.folds(key, len(paths), num_folds=count):
        others = np.delete(np.arange(len(paths)), part)
        train = images.Lazy([paths[i] for i in others.tolist()])
        fitted = detector.fit(key, network, train, settings=settings)
        found[part] = runner.image_scores(fitted, [paths[i] for i in part.tolist()])
    return found


def _left_out(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of the study of images left out."""
    network = backbone.load("efficientnet_lite0")
    studies: dict[str, list[Path]] = {}
    for name in options.categories:
        if name == "elpv":
            data = datasets.elpv()
        elif options.data_root:
            data = datasets.mvtec(options.data_root, name)
        else:
            continue
        studies[name] = [Path(r.image) for r in data.records if r.label == 0]
    records = runner.load_records(options.output)  # A run that was ended goes on.
    done = {(record["data"], record["num_train"]) for record in records}
    for name, paths in studies.items():
        for count in options.sizes:
            if len(paths) < count + 10 or (name, count) in done:
                continue
            rows = left_out_splits(
                network,
                paths,
                num_train=count,
                num_test=150,
                num_splits=options.splits,
                settings=detector.Settings(),
                refit=options.refit,
            )
            records += [{"data": name, "num_train": count, **row} for row in rows]
            runner.save_records(options.output, records)
    return records


def _split(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of the study of held-out images."""
    settings = detector.Settings(
        num_components=options.num_components, max_samples=options.max_samples
    )
    network = backbone.load("efficientnet_lite0")
    cells = [r.image for r in datasets.elpv().records if r.label == 0]
    studies = {"elpv": (cells, 200, 150)}
    if options.data_root is not None:
        data = datasets.mvtec(options.data_root, "transistor")
        normal = [r.image for r in data.records if r.label == 0]
        studies["transistor"] = (normal, 120, 80)
    records = []
    for name, (paths, num_train, num_calibration) in studies.items():
        scores = held_out_scores(network, paths, num_train=num_train, settings=settings)
        for row in splits(scores, num_calibration=num_calibration):
            records.append({"data": name, "num_train": num_train, **row})
        runner.save_records(options.output, records)
    return records


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
    add = parser.add_argument
    add("--left-out", action="store_true", help="calibrate with images left out")
    add("--refit", action="store_true", help="leave out by fits to the others")
    add("--sizes", nargs="+", type=int, default=[20, 50, 100], help="of left-out sets")
    add("--splits", type=int, default=NUM_SPLITS, help="of left-out sets")
    add("--categories", nargs="+", default=CATEGORIES)
    options = parser.parse_args(arguments)
    with runner.errors():
        records = _left_out(options) if options.left_out else _split(options)
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
