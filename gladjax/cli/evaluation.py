"""The commands ``gladjax evaluate`` and ``gladjax report``."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import click
import numpy as np

from gladjax import calibrate, datasets, files, images, io, outputs, programs
from gladjax import report as reports
from gladjax.cli import options, reading
from gladjax.cli.options import F, Progress
from gladjax.cli.saying import say
from gladjax.datasets import Dataset
from gladjax.experiments import evaluation, runner
from gladjax.experiments.evaluation import Evaluation

EVALUATE_EPILOG = """\b
Examples:
  gladjax evaluate model.safetensors elpv
  gladjax evaluate model.safetensors mvtec --data-root mvtec --category screw
  gladjax evaluate model.safetensors my-folder --out out --report out/report.html
  gladjax evaluate model.safetensors parts.csv

A folder of your own holds normal test images in test/good and anomalous ones in
test/KIND, or lies in folders such as normal and abnormal; masks, if there are any, are
in ground_truth/KIND or mask. A CSV file has a column image, and perhaps label (0 or 1,
OK or NG), kind, mask and split. Training images are not needed."""

REPORT_EPILOG = """\b
Examples:
  gladjax report model.safetensors --out model.html
  gladjax report model.safetensors elpv --out elpv.html"""


def data(function: F) -> F:
    """Adds the options that say where a data set is."""
    root = click.option(
        "--data-root", type=options.PLACE, help="Folder or CSV file of the data set."
    )
    normal = click.option(
        "--normal", multiple=True, help="Kind that is normal, of a folder of your own."
    )
    masks = click.option(
        "--masks", type=options.FOLDER, help="Folder of masks of a folder of your own."
    )
    needed = click.option(
        "--require-masks", is_flag=True, help="Refuse if a mask is missing."
    )
    category = click.option("--category", help="Category of the data set.")
    skip = click.option("--strict", is_flag=True, help="Stop at the first bad image.")
    added = options.max_pixels(options.force(skip(function)))
    added = options.weights_file(options.calibrated_rate(added))
    return root(category(normal(masks(needed(added)))))


@click.command(epilog=EVALUATE_EPILOG)
@click.argument("model", type=options.EXISTING)
@click.argument("dataset")
@data
@options.out(type=options.FOLDER, help="Folder for results.json.")
@click.option("--heatmaps", is_flag=True, help="Write a picture per image to --out.")
@click.option("--report", "page", type=options.OUTPUT, help="Write an HTML page.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@programs.as_last_time("evaluate")
def evaluate(model: Path, dataset: str, **chosen: Any) -> None:  # noqa: ANN401
    """Measure a MODEL on the test images of DATASET.

    DATASET is a name (elpv, mvtec, visa, ...), a folder, or a CSV file.
    """
    output = chosen["out"]
    if chosen["heatmaps"] and output is None:
        raise click.UsageError("--heatmaps needs --out")
    results = None if output is None else output / "results.json"
    wanted = [(results, outputs.RESULTS), (chosen["page"], outputs.PAGE)]
    outputs.check_all(wanted, force=chosen["force"])
    pictures = None
    if output is not None and chosen["heatmaps"]:
        pictures = output / "heat_maps"
    found = measure(model, dataset, chosen, pictures=pictures)
    record = found["record"]
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        value = record[name]
        say(f"{name.replace('_', ' ')}: {'-' if value is None else f'{value:.4f}'}")
    for name, value in record["decisions"].items():
        say(f"{name.replace('_', ' ')}: {value}")
    if results is not None:
        files.write_json(results, [record])
        say(f"results: {results}")
    if chosen["page"] is not None:
        write_page(chosen["page"], found)
    if found["dataset"].errors:
        raise click.exceptions.Exit(3)


@click.command(epilog=REPORT_EPILOG)
@click.argument("model", type=options.EXISTING)
@click.argument("dataset", required=False)
@data
@options.out(type=options.OUTPUT, required=True, help="The HTML file.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def report(model: Path, dataset: str | None, out: Path, **chosen: Any) -> None:  # noqa: ANN401
    """Write a page about a MODEL, or about its evaluation on DATASET.

    The page is one file without scripts; it needs no network.
    """
    outputs.check(out, outputs.PAGE, force=chosen["force"])
    if dataset is None:
        network = io.describe(model).backbone
        fitted = io.load(
            model, backbone=options.saved_network(network, chosen["checkpoint"])
        )
        reports.write(out, reports.fitted(model, fitted))
        say(f"report: {out}")
        return
    write_page(out, measure(model, dataset, chosen))


def measure(
    model: Path, name: str, chosen: dict[str, Any], *, pictures: Path | None = None
) -> dict[str, Any]:
    """Scores the test images of a data set by a saved model.

    Args:
      model: The model file.
      name: Name, folder or CSV file of the data set.
      chosen: The options of the command.
      pictures: Folder for a picture per image.

    Returns:
      ``record``, and what a page needs: ``dataset``, ``fitted``, ``result``,
      ``threshold``, ``read``.
    """
    description = io.describe(model)
    known = images.from_notes(description.notes.get("learnt"))
    dataset = load(name, chosen, known)
    read = reading.Reader(known)
    network = options.saved_network(description.backbone, chosen["checkpoint"])
    fitted = io.load(model, backbone=network)
    with Progress(quiet=chosen["quiet"]) as progress:
        result = evaluation.evaluate(
            fitted,
            dataset,
            pictures=pictures,
            force=chosen["force"],
            read=read,
            progress=functools.partial(progress, "test images"),
        )
    for item in dataset.test:
        read.tell(item.image)
    read.end()
    for note in result.notes:
        say(note, err=True)
    rate = chosen["rate"] or description.false_positive_rate or 0.05
    scores = np.zeros(0) if fitted.calibration is None else fitted.calibration
    limit = calibrate.threshold(np.asarray(scores), rate)
    notes = description.notes
    record = {
        "category": dataset.category,
        "data": dataset.name,
        "backbone": fitted.backbone.name,
        "method": "glad",
        "seed": notes.get("seed"),
        "settings": dataclasses.asdict(fitted.settings),
        "num_train": notes.get("num_images"),
        "num_test": len(dataset.test),
        **evaluation.measures(result),
        **runner.sizes(fitted),
        "decisions": decisions(result, limit, rate),
        "notes": [*dataset.notes, *result.notes],
        "fit_seconds": notes.get("seconds", {}).get("all"),
        "seconds_per_image": result.seconds,
    }
    return {
        "record": record,
        "dataset": dataset,
        "fitted": fitted,
        "result": result,
        "threshold": limit,
        "read": read,
    }


def load(name: str, chosen: dict[str, Any], known: images.Learnt | None) -> Dataset:
    """Lists a data set by its name, a folder or a table; what is odd is told.

    Args:
      name: Name, folder or CSV file.
      chosen: The options of the command.
      known: What is known of the images that the model learnt from.

    Raises:
      UsageError: If names of parts are given for what is no folder of one's own.
      ValueError: If there are no test images.
    """
    rules = {"category": chosen["category"], "skip_bad": not chosen["strict"]}
    parts = datasets.Names(tuple(chosen["normal"]), chosen["masks"])
    own = name not in datasets.LOADERS and Path(name).exists()
    root = Path(name) if own else chosen["data_root"]
    if name == "folder" or (own and Path(name).is_dir()):
        if root is None:
            raise click.UsageError("folder: say where it is, with --data-root")
        dataset = datasets.folder(root, **rules, train=False, names=parts)
    elif any(parts):
        raise click.UsageError("--normal and --masks are for a folder of your own")
    else:
        named = "csv" if own else name
        dataset = datasets.load(named, root=root, **rules, train=False)
    return _checked(dataset, chosen, known)


def _checked(
    dataset: Dataset, chosen: dict[str, Any], known: images.Learnt | None
) -> Dataset:
    """Reads all images once, and says what is left out, odd, or there twice."""
    facts: dict[Path, images.Facts] = {}
    dataset = datasets.readable(
        dataset,
        skip_bad=not chosen["strict"],
        told=lambda record, one: facts.update({record.image: one}),
    )
    for error in dataset.errors:
        say(f"left out: {error}", err=True)
    for note in dataset.notes:
        say(note, err=True)
    if not dataset.test:
        raise ValueError(f"{dataset.name}: there are no test images")
    if chosen["require_masks"]:
        datasets.require(dataset)
    old = frozenset(facts[record.image].content for record in dataset.train)
    old |= frozenset() if known is None else known.contents
    reading.tell_copies([(r.image, facts[r.image]) for r in dataset.test], old)
    return dataset


def decisions(
    result: Evaluation, limit: float | None, rate: float
) -> dict[str, float | None]:
    """Returns how the threshold does on the test images.

    Args:
      result: The evaluation.
      limit: The threshold; None if there is none.
      rate: The false-positive rate asked for.
    """
    found: dict[str, float | None] = {"false_positive_rate_asked": rate}
    for name, label in (("false_positive_rate", 0), ("true_positive_rate", 1)):
        part = result.scores[result.labels == label]
        known = limit is not None and len(part) > 0
        found[name] = float(np.mean(part > limit)) if known else None
    return {**found, "threshold": limit}


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Writes the page of an evaluation.

    Args:
      path: The HTML file.
      found: What `measure` returned.
    """
    result, record = found["result"], found["record"]
    cases = [
        reports.Case(
            name=f"{item.kind}/{item.image.name}",
            label=item.label,
            score=float(score),
            heat_map=np.asarray(heat),
            read=functools.partial(found.get("read", images.photograph), item.image),
        )
        for item, score, heat in zip(
            found["dataset"].test, result.scores, result.heat_maps, strict=True
        )
    ]
    names = ("backbone", "image_auroc", "pixel_auroc", "aupro", "model_bytes")
    text = reports.evaluation(
        f"GLAD on {record['data']}, {record['category']}",
        found["fitted"],
        cases,
        threshold=found["threshold"],
        measures={name: record[name] for name in names},
        seconds=result.seconds,
    )
    reports.write(path, text)
    say(f"report: {path}")
