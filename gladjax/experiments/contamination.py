"""Defects among the good images: what do they cost, and are they named?

    python -m gladjax.experiments.contamination --data-root DIR \
        --categories transistor screw --seeds 0 1 2 --output OUT

Of a number of training images a share is replaced by defective test images, which then
are no test images any more. A detector with the default settings learns from the good
ones of them alone (*good*), from all (*mixed*), and from those that are left where the
images that `gladjax.calibrate.unlike` names are taken out (*cleaned*). All three are
scored on the same test images, at the threshold of the images that each learnt from,
left out in turn. Expected: an AUROC that loses less than a point, a sensitivity that
loses more, because defects among the calibration scores raise the threshold; blatant
defects named, and the sensitivity back without them.

Notation: ``m`` training images of the data set; test image ``j`` has number ``m + j``.

Differs from the reference in: (1) the paper learns from good images only.

Reference: Tukey. "Exploratory Data Analysis". Addison-Wesley, 1977, section 2D.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from gladjax import cache, calibrate, covariance, detector, metrics
from gladjax.datasets import Dataset
from gladjax.detector import Detector, Settings, fitting, layers, left_out
from gladjax.detector.layers import Learnt
from gladjax.experiments import rows, runner, study
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case

RATE = 0.05
TEN = 10  # Images that are looked at first.
STATES = ("good", "mixed", "cleaned")


class Draw(NamedTuple):
    """Who learns and who tests.

    Attributes:
      learn: Numbers of the images to learn from, in random order.
      bad: Which of them are defective.
      test: Numbers of the test images that are left.
    """

    learn: np.ndarray
    bad: np.ndarray
    test: np.ndarray


class Images(NamedTuple):
    """Of the images to learn from: pixels that count, and their folds."""

    valid: list[np.ndarray]
    places: np.ndarray


class Fitted(NamedTuple):
    """A detector, and the scores of its images, each left out."""

    detector: Detector
    left_out: np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("contamination", "Defects among the good images.")
    parser.set_defaults(paper=False)
    add = parser.add_argument
    add("--num-train", type=int, default=50, help="images to learn from, at most")
    add("--shares", nargs="+", type=float, default=[0.0, 0.06, 0.1], help="defective")
    options = parser.parse_args(arguments)
    study.run(options, _rows, table, notes=notes)


def _rows(case: Case) -> None:
    chosen = runner.settings(case.options)
    source = rows.features(case.options, case.dataset, case.net)
    for seed in case.options.seeds:
        for share in case.options.shares:
            drawn = draw(case.dataset, case.options.num_train, share, seed=seed)
            settings = {**dataclasses.asdict(chosen), "images": len(drawn.learn)}

            def make(drawn: Draw = drawn, seed: int = seed) -> Record:
                return _record(source, case.dataset, drawn, chosen, seed)

            settings |= {"share": share}
            study.row(case, "contaminated", seed, settings, make)


def draw(dataset: Dataset, number: int, share: float, *, seed: int) -> Draw:
    """Draws training images, and defective test images to put among them.

    Args:
      dataset: The data set.
      number: How many to learn from; all training images where there are fewer.
      share: Share of them that is defective.
      seed: Larger shares replace further images, and keep the defects of smaller ones.

    Raises:
      ValueError: If no good training image or no defective test image is left.
    """
    rng = np.random.default_rng(seed)
    good = rng.permutation(len(dataset.train))[:number]
    labels = np.array([record.label for record in dataset.test])
    wrong = rng.permutation(np.flatnonzero(labels == 1))
    count = round(share * len(good))
    if not 0 <= count < min(len(good), len(wrong)):
        raise ValueError(
            f"{dataset.category}: {share:g} of {len(good)} training images cannot be "
            f"replaced by {len(wrong)} defective ones"
        )
    used = wrong[:count]
    learn = np.concatenate([good[: len(good) - count], len(dataset.train) + used])
    learn = rng.permutation(learn)
    test = len(dataset.train) + np.setdiff1d(np.arange(len(labels)), used)
    return Draw(learn, learn >= len(dataset.train), test)


def take(train: np.ndarray, test: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns what belongs to some images.

    Args:
      train: Of the training images.
      test: Of the test images.
      numbers: Of the images.
    """
    m = len(train)
    return np.stack([train[i] if i < m else test[i - m] for i in numbers])


def fit(
    source: Source, numbers: np.ndarray, settings: Settings, *, seed: int
) -> Fitted:
    """Fits as `gladjax.detector.fit_info` does, from features at hand.

    Args:
      source: The features.
      numbers: Of the images to learn from.
      settings: How to fit.
      seed: Randomness.
    """
    blank, learnt, images = learn(source, numbers, settings, seed=seed)
    return finished(*fitting.settled(blank, learnt)[:2], images)


def learn(
    source: Source, numbers: np.ndarray, settings: Settings, *, seed: int
) -> tuple[Detector, dict[str, Learnt], Images]:
    """Learns the layers from features at hand.

    Args:
      source: The features.
      numbers: Of the images to learn from.
      settings: How to fit.
      seed: Randomness.

    Returns:
      The detector without its layers, what was learnt of them, and of what.
    """
    cache.release_programs()
    m = len(next(iter(source.train.values())))
    learning = np.broadcast_to(source.valid, (m, *source.valid.shape[1:]))
    testing = np.stack([one.valid for one in source.aligned])
    images = Images(
        list(take(learning, testing, numbers)),
        left_out.deal(len(numbers), detector.FOLDS),
    )
    blank = dataclasses.replace(source.blank, settings=settings)
    learnt = fitting.learn_layers(
        jax.random.key(seed),
        blank,
        {n: take(source.train[n], source.test[n], numbers) for n in source.train},
        images.valid,
        (covariance.oas, images.places),
        lambda _: None,
        layers.Clock(),
    )
    return blank, learnt, images


def finished(fitted: Detector, learnt: Mapping[str, Learnt], images: Images) -> Fitted:
    """Returns a detector with the scores of its images, each left out.

    Args:
      fitted: The detector.
      learnt: What was learnt of its layers.
      images: The images.
    """
    alone = {n: one.alone for n, one in learnt.items() if one.alone is not None}
    return Fitted(fitted, left_out.scores(fitted, alone, images.valid, images.places))


def measure(
    source: Source, fitted: Fitted, test: np.ndarray, bad: np.ndarray
) -> Record:
    """Scores test images and decides about them.

    Args:
      source: The features.
      fitted: The detector and its calibration.
      test: Numbers of the test images.
      bad: Which of them are defective.

    Returns:
      Image AUROC; shares of the defective and of the good images that are flagged, None
      where there are too few images for a threshold.
    """
    size = source.blank.backbone.image_size
    scores = []
    for j in test - len(next(iter(source.train.values()))):
        maps = {name: value[j] for name, value in source.test.items()}
        maps = detector.log_maps(fitted.detector, maps)
        one = detector.summarise(fitted.detector, maps, source.aligned[j], size)
        scores.append(one.score)
    found: Record = {"image_auroc": metrics.auroc(bad.astype(int), np.array(scores))}
    known = fitted.left_out[np.isfinite(fitted.left_out)]
    flagged = None
    if len(known) >= calibrate.num_needed(RATE):
        flagged = calibrate.p_values(known, np.array(scores)) <= RATE
    for name, which in (("sensitivity", bad), ("false_positives", ~bad)):
        found[name] = None if flagged is None else float(flagged[which].mean())
    return found


def _record(
    source: Source, dataset: Dataset, drawn: Draw, settings: Settings, seed: int
) -> Record:
    """Computes the row of a draw."""
    known: dict[tuple[int, ...], tuple[Fitted, Record]] = {}
    records = (*dataset.train, *dataset.test)
    bad = np.array([records[i].label == 1 for i in drawn.test])

    def learn(numbers: np.ndarray) -> tuple[Fitted, Record]:
        same = tuple(numbers.tolist())
        if same not in known:
            fitted = fit(source, numbers, settings, seed=seed)
            known[same] = fitted, measure(source, fitted, drawn.test, bad)
        return known[same]

    _, good = learn(drawn.learn[~drawn.bad])
    fitted, mixed = learn(drawn.learn)
    named = calibrate.unlike(fitted.left_out)
    _, cleaned = learn(np.delete(drawn.learn, named))
    first = np.argsort(-fitted.left_out)[:TEN]
    paths = [records[i].image for i in drawn.learn[named]]
    return {
        "num_train": len(drawn.learn),
        "num_test": len(drawn.test),
        "num_bad": int(drawn.bad.sum()),
        "bad_named": int(drawn.bad[named].sum()),
        "good_named": int((~drawn.bad[named]).sum()),
        "bad_among_ten": int(drawn.bad[first].sum()),
        "named": [f"{path.parent.name}/{path.name}" for path in paths],
        **dict(zip(STATES, (good, mixed, cleaned), strict=True)),
    }


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category, number of images and share.

    Args:
      records: The rows of all categories and seeds.
    """
    head = ["category", "images", "defects", "named", "good ones named"]
    head += [f"among the {TEN} least likely"]
    measured = ("image_auroc", "sensitivity", "false_positives")
    titles = ("image AUROC", f"sensitivity at {RATE:g}", "false positives")
    head += [f"{title}, {state}" for title in titles for state in STATES]
    out = [[*head, "seeds"]]
    for own in _groups(records):
        counts = ("num_bad", "bad_named", "good_named", "bad_among_ten")
        means = [np.mean([record[name] for record in own]) for name in counts]
        shown = [
            rows.cell(record[state][name] for record in own)
            for name in measured
            for state in STATES
        ]
        seeds = " ".join(str(record["seed"]) for record in own)
        cells = [own[0]["category"], str(own[0]["num_train"])]
        out.append([*cells, *(f"{mean:.3g}" for mean in means), *shown, seeds])
    return out


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Returns the records that differ in their seeds only, together."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        at = record["category"], repr(sorted(record["settings"].items()))
        found.setdefault(at, []).append(record)
    return list(found.values())


def notes(records: Sequence[Record]) -> str:
    """Says how many defects are named, and what they cost at most.

    Args:
      records: The rows of all categories and seeds.
    """
    total = {
        name: sum(record[name] for record in records)
        for name in ("num_bad", "bad_named", "good_named", "bad_among_ten")
    }
    losses = [
        max(
            (rows.mean(r["good"]["image_auroc"] for r in own) or 0.0)
            - (rows.mean(r[state]["image_auroc"] for r in own) or 0.0)
            for own in _groups(records)
        )
        for state in ("mixed", "cleaned")
    ]
    return (
        "Of {num_bad} defects {bad_named} are named, and {bad_among_ten} are among the "
        f"{TEN} least likely; {{good_named}} good images are named. "
    ).format(**total) + (
        f"Largest loss of image AUROC, mean over seeds: {100 * losses[0]:.2f} points "
        f"mixed, {100 * losses[1]:.2f} cleaned."
    )


if __name__ == "__main__":
    main()
