"""The command ``gladjax score``: a line per image, as soon as it is known."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from gladjax import calibrate, images, io, plots, streaming
from gladjax.calibrate import Decision
from gladjax.cli import inputs, options, reading
from gladjax.cli.options import Progress
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
@click.option("--strict", is_flag=True, help="Stop at the first bad image.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def score(
    model: Path,
    images_: tuple[str, ...],
    heatmaps: Path | None,
    jsonl: bool,
    rate: float | None,
    checkpoint: Path | None,
    strict: bool,
    quiet: bool,
) -> None:
    """Score IMAGES with a MODEL that `gladjax fit` wrote.

    IMAGES are files, folders, patterns, or - for a list of files on standard input.
    Higher scores are more anomalous.
    """
    paths = inputs.expand(images_)
    description = io.describe(model)
    network = options.saved_network(description.backbone, checkpoint)
    fitted = io.load(model, backbone=network)
    chosen = rate or description.false_positive_rate or 0.05
    scores = fitted.calibration
    calibrate.threshold(np.zeros(0) if scores is None else np.asarray(scores), chosen)
    names = None if heatmaps is None else inputs.Names(heatmaps, paths)
    num_bad = 0
    with Progress(quiet=quiet) as progress:
        read = reading.Reader(images.from_notes(description.notes.get("learnt")))
        results = streaming.score_many(fitted, images.Lazy(paths, read=read))
        for i, (path, result) in enumerate(zip(paths, results, strict=True)):
            if isinstance(result, images.ImageError):
                if strict:
                    raise result
                num_bad += 1
                _say({"image": str(path), "error": str(result)}, jsonl=jsonl)
            else:
                read.tell(path)
                decision = decide(fitted, result, chosen)
                target = None
                if names is not None:
                    target = names.next(path)
                    draw(read(path), result, decision, target)
                _say(line(path, result, decision, target), jsonl=jsonl)
            progress("scoring", i + 1, len(paths))
    read.end()
    if num_bad:
        click.echo(f"{num_bad} of {len(paths)} images were bad", err=True)
        raise click.exceptions.Exit(3)


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


def _say(found: dict[str, Any], *, jsonl: bool) -> None:
    """Prints one whole line, at once."""
    if jsonl:
        text = json.dumps(found, allow_nan=False)
    elif "error" in found:
        click.echo(f"bad image: {found['error']}", err=True)
        return
    else:
        words = {True: "ANOMALOUS", False: "normal", None: "-"}[found["is_anomalous"]]
        p = "     -" if found["p_value"] is None else f"{found['p_value']:6.4f}"
        value = "nothing visible" if found["score"] is None else f"{found['score']:.4f}"
        text = f"{value:>14}  p {p}  {words:<9}  {found['image']}"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def draw(image: np.ndarray, result: Scored, decision: Decision, target: Path) -> None:
    """Writes the picture of an image: input, heat map over it, score.

    Args:
      image: The image, 0 to 255.
      result: What the detector says of it.
      decision: What is decided.
      target: The PNG file.
    """
    limits = plots.limits(result.heat_map, threshold=decision.threshold)
    note = {True: "anomalous", False: "normal", None: ""}[decision.is_anomalous]
    if decision.p_value is not None:
        note = f"p {decision.p_value:.3g} {note}"
    picture = plots.scored_picture(
        image, result.heat_map, result.score, limits=limits, note=note
    )
    images.write_png(target, picture)
