"""The command ``gladjax score``: a line per image, as soon as it is known."""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from gladjax import calibrate, images, io, outputs, plots, programs, streaming
from gladjax.calibrate import Decision
from gladjax.cli import inputs, interruption, options, reading
from gladjax.cli.options import Progress
from gladjax.cli.saying import say
from gladjax.detector import Detector, Scored

EPILOG = """\b
Examples:
  gladjax score model.safetensors new/ --heatmaps maps
  gladjax score model.safetensors 'new/*.png' --jsonl > scores.jsonl
  find . -name '*.jpg' | gladjax score model.safetensors - --jsonl

\b
JSON lines have: image, score, p_value, threshold, is_anomalous (null where there are
too few calibration images), alignment, heat_map; or image and error."""


@click.command(epilog=EPILOG)
@click.argument("model", type=options.EXISTING)
@click.argument("images_", metavar="IMAGES...", nargs=-1, required=True)
@click.option(
    "--heatmaps", type=options.FOLDER, help="Write a picture per image into a folder."
)
@click.option("--jsonl", is_flag=True, help="Print a JSON object per line.")
@options.calibrated_rate
@options.weights_file
@options.max_pixels
@options.force
@click.option("--strict", is_flag=True, help="Stop at the first bad image.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@programs.as_last_time("score")
def score(model: Path, images_: tuple[str, ...], **chosen: Any) -> None:  # noqa: ANN401
    """Score IMAGES with a MODEL that `gladjax fit` wrote.

    IMAGES are files, folders, patterns, or - for a list of files on standard input,
    each of which is answered as soon as its name has come. Higher scores are more
    anomalous.
    """
    options.standard_output()
    known = inputs.known(images_)
    paths = inputs.expand(known) if known or not images_ else []
    pictures = None
    if chosen["heatmaps"] is not None:
        pictures = _Pictures(chosen["heatmaps"], paths, force=chosen["force"])
    description = io.describe(model)
    network = options.saved_network(description.backbone, chosen["checkpoint"])
    fitted = io.load(model, backbone=network)
    rate = chosen["rate"] or description.false_positive_rate or 0.05
    scores = fitted.calibration
    calibrate.threshold(np.zeros(0) if scores is None else np.asarray(scores), rate)
    read = reading.Reader(images.from_notes(description.notes.get("learnt")))
    waiting = len(known) < len(images_)
    found = streaming.score_files(
        fitted,
        inputs.stream(images_, quiet=True) if waiting else paths,
        read=read,
        shape=fitted.backbone.image_size,
        waiting=interruption.check,
    )
    done = num_bad = 0
    with interruption.between(), Progress(quiet=chosen["quiet"]) as progress:
        for path, image, result in found:
            done += 1
            if isinstance(result, images.ImageError):
                if chosen["strict"]:
                    raise result
                num_bad += 1
                _say({"image": str(path), "error": str(result)}, chosen["jsonl"])
            else:
                read.tell(path)
                decision = decide(fitted, result, rate)
                target = None
                if pictures is not None:
                    target = pictures.draw(path, image, result, decision)
                _say(line(path, result, decision, target), chosen["jsonl"])
            progress("scoring", done, done if waiting else len(paths))
    read.end()
    if num_bad:
        say(f"{num_bad} of {done} images were bad", err=True)
        raise click.exceptions.Exit(3)


class _Pictures:
    """Writes pictures that replace no image and no file of somebody else's."""

    def __init__(self, folder: Path, paths: Sequence[Path], *, force: bool) -> None:
        self._names, self._force = outputs.Names(folder, paths), force
        self._inputs = {os.path.realpath(path) for path in paths}
        names = outputs.Names(folder, paths)
        for path in paths:
            self._check(names.next(path))

    def _check(self, target: Path) -> None:
        outputs.check(target, outputs.PICTURE, force=self._force)
        if not self._force and os.path.realpath(target) in self._inputs:
            raise ValueError(f"{target}: would replace an image that is scored")

    def draw(
        self, path: Path, image: np.ndarray, result: Scored, decision: Decision
    ) -> Path:
        """Writes input, heat map over it and score, and returns the file."""
        target = self._names.next(path)
        self._inputs.add(os.path.realpath(path))
        self._check(target)
        limits = plots.limits(result.heat_map, threshold=decision.threshold)
        note = {True: "anomalous", False: "normal", None: ""}[decision.is_anomalous]
        if decision.p_value is not None:
            note = f"p {decision.p_value:.3g} {note}"
        picture = plots.scored_picture(
            image, result.heat_map, result.score, limits=limits, note=note
        )
        images.write_png(target, picture, software=outputs.SOFTWARE)
        return target


def decide(fitted: Detector, result: Scored, rate: float) -> Decision:
    """Returns the decision about an image.

    Args:
      fitted: The detector.
      result: What it says of the image.
      rate: The false-positive rate.
    """
    scores = fitted.calibration
    known = None if scores is None else np.asarray(scores)
    return calibrate.decide(known, result.score, rate=rate)


def line(
    path: Path, result: Scored, decision: Decision, heat_map: Path | None
) -> dict[str, Any]:
    """Returns what is printed of an image, ready for JSON.

    Args:
      path: The image.
      result: What the detector says of it.
      decision: What is decided.
      heat_map: The picture that was written.
    """
    info = result.alignment.info
    alignment = None
    if info is not None:
        alignment = {
            "success": bool(info.success),
            "implausible": bool(info.implausible),
            "residual": _number(info.residual),
            "overlap": _number(info.overlap),
            "displacement": _number(info.displacement),
        }
    return {
        "image": str(path),
        "score": _number(result.score),
        "p_value": decision.p_value,
        "threshold": decision.threshold,
        "is_anomalous": decision.is_anomalous,
        "alignment": alignment,
        "heat_map": None if heat_map is None else str(heat_map),
    }


def _number(value: Any) -> float | None:  # noqa: ANN401 - any scalar
    number = float(value)
    return number if math.isfinite(number) else None


def _say(found: dict[str, Any], jsonl: bool) -> None:
    """Prints one whole line, at once."""
    if jsonl:
        text = json.dumps(found, allow_nan=False)
    elif "error" in found:
        say(f"bad image: {found['error']}", err=True)
        return
    else:
        words = {True: "ANOMALOUS", False: "normal", None: "-"}[found["is_anomalous"]]
        p = "     -" if found["p_value"] is None else f"{found['p_value']:6.4f}"
        value = "nothing visible" if found["score"] is None else f"{found['score']:.4f}"
        name = outputs.printable(found["image"])
        text = f"{value:>14}  p {p}  {words:<9}  {name}"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
