"""The command ``gladjax fit``: photographs of good products in, one model file out."""

import functools
import time
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from gladjax import align, images, io, outputs, programs, report
from gladjax import backbone as backbones
from gladjax.backbone import Backbone
from gladjax.cli import inputs, options, reading, sizing
from gladjax.cli.calibration import Work, calibrated
from gladjax.cli.forecast import Course
from gladjax.cli.options import Progress
from gladjax.cli.saying import say
from gladjax.detector import Detector, Settings
from gladjax.detector.augment import COPIED, KINDS
from gladjax.detector.collecting import sampled
from gladjax.detector.model import RANGES

MOTIONS = ("translation", "euclidean", "similarity", "affine", "homography")

EPILOG = """\b
Examples:
  gladjax fit good/ --out model.safetensors
  gladjax fit 'line3/**/*.png' --align auto --out m.safetensors
  gladjax fit good/ --image-size 112 560 --out m.safetensors
  find . -name 'ok*.jpg' | gladjax fit - --false-positive-rate 0.01 --out m.safetensors

The threshold comes from the images themselves, each scored under what the others alone
give. A rate of 1 % needs 99 images; with fewer the model gives scores, but no
decisions. The paper's settings take minutes: `--paper`."""


@click.command(epilog=EPILOG)
@click.argument("images_", metavar="IMAGES...", nargs=-1, required=True)
@options.out(type=options.OUTPUT, required=True, help="The model file.")
@options.network
@sizing.image_size
@sizing.tiles
@click.option(
    "--false-positive-rate",
    "rate",
    type=options.RATE,
    default=0.05,
    show_default=True,
    help="Share of normal images that may be called anomalous.",
)
@click.option(
    "--calibration",
    type=click.Choice(["left-out", "split", "none"]),
    default="left-out",
    show_default=True,
    help="Where the threshold comes from: every image, left out of the model in turn; "
    "or a fifth of the images, which the model never sees.",
)
@click.option(
    "--align",
    "motion",
    type=click.Choice(["none", "auto", *MOTIONS]),
    default="none",
    show_default=True,
    help="Align images with a reference; auto decides from the images.",
)
@click.option("--coarse", is_flag=True, help="Align at any angle.")
@click.option(
    "--augment",
    type=click.Choice(["none", *filter(None, KINDS)]),
    help="Learn from copies too: mirrored left to right; or turned by quarters and "
    "mirrored, eight times as many, for things that lie anyhow, of which there are few "
    "images. Not where a part that is turned is a defect. By default auto, which tries "
    "the latter where local weights do not hold and asks the images left out; none "
    "with --quick and --paper.",
)
@click.option(
    "--mask",
    type=options.EXISTING,
    help="Image, white where anomalies are looked for; everywhere by default.",
)
@click.option(
    "--margin",
    type=click.FloatRange(*RANGES["margin"]),
    help="Share of each side that is not looked at where there is no mask; none by "
    "default, the paper's is 0.0625.",
)
@click.option(
    "--neighbourhood",
    type=click.IntRange(*RANGES["neighbourhood"]),
    help="Side, in cells, of the windows over which the coarsest layer is looked at "
    f"too, odd; {Settings.neighbourhood} by default, 1 for none.",
)
@click.option(
    "--finest/--no-finest",
    default=None,
    help="Whether the finest of three layers is looked at: sharper maps of some "
    "objects, half as long again; not by default, in the paper it is.",
)
@click.option(
    "--bit-depth",
    type=click.IntRange(8, 16),
    help="Bits that count in 16-bit files; by default those that their largest value "
    "needs.",
)
@click.option("--quick", is_flag=True, help="A first look: few components, few steps.")
@click.option(
    "--paper",
    is_flag=True,
    help="The paper's settings: 1000 components, all features, to a change of 1e-6.",
)
@click.option(
    "--num-components",
    type=click.IntRange(0),
    help="Components to start from, per layer; 0, the default, for one for every "
    "256 features, 25 to 200.",
)
@click.option(
    "--max-samples",
    type=click.IntRange(0),
    help=f"Features per layer that the mixture is fitted to, 0 for all; "
    f"{Settings.max_samples} by default, and four times as many in the last step "
    "where the number of components is the default.",
)
@click.option(
    "--local-weights",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Whether every position has weights of its own; where images are few, auto "
    "looks whether such weights make images likelier that are left out.",
)
@click.option(
    "--prior",
    type=click.FloatRange(0),
    default=Settings.prior,
    show_default=True,
    help="Samples of the global weights counted everywhere beside the local ones; for "
    "few images of things that lie anyhow, not where a part may be out of place.",
)
@click.option(
    "--keep-statistics",
    is_flag=True,
    help="Keep what `gladjax update` needs to learn from more images later; the file "
    "is about twice as large.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--strict", is_flag=True, help="Stop at the first bad image.")
@click.option("--report", "page", type=options.OUTPUT, help="Write an HTML page too.")
@options.max_pixels
@options.force
@click.option("--quiet", is_flag=True, help="Show no progress.")
def fit(images_: tuple[str, ...], **chosen: Any) -> None:  # noqa: ANN401
    """Learn from IMAGES of good products, and write a model.

    IMAGES are files, folders, patterns, or - for a list of files on standard input. Of
    a data set with train and test, only train/good is learnt from.
    """
    begun = time.perf_counter()
    wanted = [(chosen["out"], outputs.MODEL), (chosen["page"], outputs.PAGE)]
    outputs.check_all(wanted, force=chosen["force"])
    found = inputs.unique(inputs.expand(images_, learn=True))
    network = backbones.load(
        chosen["backbone_name"],
        checkpoint=chosen["checkpoint"],
        image_size=chosen["image_size"],
    )
    key_align, key_split, key_fit = jax.random.split(jax.random.key(chosen["seed"]), 3)
    with (
        programs.as_last_time("fit") as last,
        Progress(quiet=chosen["quiet"]) as progress,
    ):
        new = reading.readable(found, strict=chosen["strict"], progress=progress)
        paths, num_bad = new.paths, new.num_bad
        if chosen["image_size"] is None:
            sizing.tell(network, [one.shape for one in new.facts])
        known = reading.learnt(new, bits=chosen["bit_depth"])
        read = functools.partial(images.photograph, depth=known.depth)
        pictures = images.Lazy(paths, read=read)
        motion, first = _motion(key_align, network, pictures, chosen)
        if first:
            paths = [paths[first], *paths[:first], *paths[first + 1 :]]
        settings = _settings(chosen, motion)
        mask = reading.mask(chosen["mask"], network, new.facts)
        course = Course(last, network, chosen["calibration"], quiet=chosen["quiet"])
        course.begins(settings, len(paths), begun)
        reference = read(paths[0]) if motion else None
        work = Work(key_fit, network, settings, mask, read, reference, course)
        fitted, how = calibrated(
            key_split, paths, work, chosen["calibration"], chosen["rate"], progress
        )
        course.ends()
    assert work.info is not None
    notes = {
        "num_images": len(paths),
        "num_bad": num_bad,
        "seed": chosen["seed"],
        "calibration": how,
        "learnt": images.to_notes(known),
        "kept": None if work.info.kept is None else max(work.info.kept, -1.0),
        "likelier": work.info.likelier,
        "seconds": {**work.info.seconds, "all": time.perf_counter() - begun},
    }
    io.save(chosen["out"], fitted, false_positive_rate=chosen["rate"], notes=notes)
    tell(chosen["out"], fitted, notes, chosen["rate"])
    if chosen["page"] is not None:
        report.write(chosen["page"], report.fitted(chosen["out"], fitted))
        say(f"report: {chosen['page']}")
    if num_bad:
        raise click.exceptions.Exit(3)


def _settings(chosen: dict[str, Any], motion: str) -> Settings:
    """Returns the settings that the options name."""
    if chosen["quick"] and chosen["paper"]:
        raise click.UsageError("--quick and --paper are two ends: choose one")
    if chosen["mask"] and chosen["margin"] is not None:
        raise click.UsageError("--mask says what counts, --margin too: choose one")
    if chosen["augment"] in COPIED and motion:
        raise click.UsageError(
            "--augment is for images that --align leaves as they are"
        )
    names = ("num_components", "max_samples", "prior", "margin", "neighbourhood")
    names += ("finest", "coarse", "keep_statistics", "tile_overlap")
    given = {name: chosen[name] for name in names}
    given["tile_rows"], given["tile_columns"] = chosen["tiles"]
    if chosen["augment"] is not None:
        given["augment"] = chosen["augment"].replace("none", "")
    if chosen["local_weights"] != "auto":
        given |= {"local": chosen["local_weights"] == "yes", "min_kept": 0.0}
    given = {name: value for name, value in given.items() if value is not None}
    known = Settings.quick if chosen["quick"] else Settings
    known = Settings.paper if chosen["paper"] else known
    return known(motion=motion, **given)


def _motion(
    key: jax.Array, network: Backbone, pictures: images.Lazy, chosen: dict[str, Any]
) -> tuple[str, int]:
    """Returns the motion to align by, empty for none, and which image to align with."""
    motion = chosen["motion"]
    if motion == "none" or len(pictures) < 3:
        return ("" if motion in ("none", "auto") else motion), 0
    kind = "euclidean" if motion == "auto" else motion
    stack = sampled(network, pictures)
    rules: dict[str, Any] = {"motion": kind, "coarse": chosen["coarse"]}
    first = align.choose_reference(key, stack, **rules)
    if motion == "auto":
        decision = align.decide(stack[first], np.delete(stack, first, axis=0), **rules)
        for reason in decision.reasons:
            say(f"alignment: {reason}", err=True)
        if not decision.align:
            return "", 0
    return kind, first


def tell(out: Path, fitted: Detector, notes: dict[str, Any], rate: float) -> None:
    """Prints what was learnt.

    Args:
      out: The model file.
      fitted: The detector.
      notes: What the file says of the fit.
      rate: The false-positive rate.
    """
    limit = io.describe(out).threshold
    kind = fitted.settings.augment
    more = f" and their copies ({kind})" if kind in COPIED else ""
    say(f"learnt from {notes['num_images']} images{more}: {out}")
    for name, layer in fitted.layers.items():
        kept = int(np.isfinite(np.asarray(layer.mixture.log_weights)).sum())
        active = np.diff(layer.local_weights.starts).mean()
        say(f"  {name}: {kept} components, {active:.1f} active per position")
    share = notes.get("kept")
    if share is not None and not fitted.settings.local:
        say(
            f"  every position has the same weights: {max(share, 0):.0%} of what their "
            "own ones tell holds for images left out; more images may change that"
        )
    likelier = notes.get("likelier")
    if likelier is not None:
        say(
            f"  turned and mirrored copies of the images were {'' if more else 'not '}"
            f"taken: {likelier:.0%} of the images left out are likelier with them"
        )
    unseen = 1 - np.mean(np.asarray(fitted.mask))
    if unseen:
        say(f"  {unseen:.1%} of the image is not looked at (mask or margin)")
    shown = "none (too few images)" if limit is None else f"{limit:.4f}"
    say(f"  threshold at a false-positive rate of {rate:g}: {shown}")
    say(f"  {notes['seconds']['all']:.1f} s")
