"""The command ``gladjax update``: a model learns from further photographs."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
import optax

from gladjax import calibrate, detector, images, io, outputs, programs
from gladjax.cli import inputs, options, reading
from gladjax.cli.calibration import usable
from gladjax.cli.fitting import tell
from gladjax.cli.options import Progress
from gladjax.detector import Detector
from gladjax.online import Schedule

EPILOG = """\b
Examples:
  gladjax fit good/ --keep-statistics --out model.safetensors
  gladjax update model.safetensors new/ --out newer.safetensors
  gladjax update model.safetensors new/ --forget 0.2 --out newer.safetensors

The images that the model was fitted to are not needed. The new images join those that
the threshold comes from: each is scored by a model that has learnt from the others."""


@click.command(epilog=EPILOG)
@click.argument("model", type=options.EXISTING)
@click.argument("images_", metavar="IMAGES...", nargs=-1, required=True)
@options.out(type=options.OUTPUT, required=True, help="The new model file.")
@click.option(
    "--forget",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the past that every batch of features replaces; by default nothing "
    "is forgotten and every image weighs the same.",
)
@options.weights_file
@options.max_pixels
@options.force
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--strict", is_flag=True, help="Stop at the first bad image.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@programs.as_last_time("update")
def update(model: Path, images_: tuple[str, ...], **chosen: Any) -> None:  # noqa: ANN401
    """Teach a MODEL that was fitted with --keep-statistics further IMAGES.

    IMAGES are files, folders, patterns, or - for a list of files on standard input.
    """
    begun = time.perf_counter()
    outputs.check(chosen["out"], outputs.MODEL, force=chosen["force"])
    found = inputs.unique(inputs.expand(images_, learn=True))
    description = io.describe(model)
    network = options.saved_network(description.backbone, chosen["checkpoint"])
    old = io.load(model, backbone=network)
    forget = chosen["forget"]
    schedule = None if forget is None else optax.constant_schedule(forget)
    with Progress(quiet=chosen["quiet"]) as progress:
        known = images.from_notes(description.notes.get("learnt"))
        new = reading.readable(
            found, strict=chosen["strict"], progress=progress, known=known
        )
        paths, num_bad = new.paths, new.num_bad
        known = reading.later(known, new)
        read = functools.partial(images.photograph, depth=known.depth)
        key = jax.random.key(chosen["seed"])
        fitted = _calibrated(key, old, paths, read, schedule, progress)
    notes = {
        **description.notes,
        "num_images": description.notes.get("num_images", 0) + len(paths),
        "num_updated": len(paths),
        "learnt": images.to_notes(known),
        "seconds": {"all": time.perf_counter() - begun},
    }
    rate = description.false_positive_rate or 0.05
    io.save(chosen["out"], fitted, false_positive_rate=rate, notes=notes)
    tell(chosen["out"], fitted, notes, rate)
    if num_bad:
        raise click.exceptions.Exit(3)


def _calibrated(
    key: jax.Array,
    old: Detector,
    paths: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    schedule: Schedule | None,
    progress: Progress,
) -> Detector:
    """Returns the detector that has learnt all images, and its calibration scores."""

    def learn(some: Sequence[Path]) -> Detector:
        return detector.update(
            old, images.Lazy(some, read=read), schedule=schedule, progress=progress
        )

    def score(fitted: Detector, path: Path) -> float:
        size = fitted.backbone.image_size
        return detector.score(fitted, read(path), shape=size).score

    before = np.zeros(0) if old.calibration is None else np.asarray(old.calibration)
    if len(paths) < 2 or old.calibration is None:
        return dataclasses.replace(learn(paths), calibration=old.calibration)
    fitted, scores = calibrate.scores(
        key, paths, learn, score, num_folds=min(5, len(paths))
    )
    every = np.concatenate([before, usable(scores).astype(before.dtype)])
    return dataclasses.replace(fitted, calibration=every)
