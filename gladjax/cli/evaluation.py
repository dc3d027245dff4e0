"""The commands ``gladjax evaluate`` and ``gladjax report``."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import click
import numpy as np

from gladjax import calibrate, datasets, files, images, io
from gladjax import report as reports
from gladjax.cli import options
from gladjax.cli.options import F, Progress
from gladjax.datasets import Dataset
from gladjax.experiments import evaluation, runner
from gladjax.experiments.evaluation import Evaluation

EVALUATE_EPILOG = """\b
Examples:
  gladjax evaluate model.safetensors elpv
  gladjax evaluate model.safetensors mvtec --data-root mvtec --category screw
  gladjax evaluate model.safetensors my-folder --output out --report out/report.html

A folder of your own holds normal test images in test/good and anomalous ones in
test/KIND, with masks, if there are any, in ground_truth/KIND."""

REPORT_EPILOG = """\b
Examples:
  gladjax report model.safetensors --out model.html
  gladjax report model.safetensors elpv --out elpv.html"""


def data(function: F) -> F:
    """Adds the options that say where a data set is."""
    root = click.option(
        "--data-root", type=options.FOLDER, help="Folder of the data set."
    )
    category = click.option("--category", help="Category of the data set.")
    skip = click.option("--strict", is_flag=True, help="Stop at the first bad image.")
    return root(category(skip(options.weights_file(options.calibrated_rate(function)))))


@click.command(epilog=EVALUATE_EPILOG)
@click.argument("model", type=options.EXISTING)
@click.argument("dataset")
@data
@click.option("--output", type=options.FOLDER, help="Folder for results.json.")
@click.option("--heatmaps", is_flag=True, help="Write a picture per image to --output.")
@click.option("--report", "page", type=options.OUTPUT, help="Write an HTML page.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def evaluate(model: Path, dataset: str, **chosen: Any) -> None:  # noqa: ANN401
    """Measure a MODEL on the test images of DATASET.

    DATASET is a name (elpv, mvtec, visa, ...) or a folder.
    """
    output = chosen["output"]
    if chosen["heatmaps"] and output is None:
        raise click.UsageError("--heatmaps needs --output")
    pictures = output / "heat_maps" if chosen["heatmaps"] else None
    found = measure(model, dataset, chosen, pictures=pictures)
    record = found["record"]
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        value = record[name]
        click.echo(
            f"{name.replace('_', ' ')}: {'-' if value is None else f'{value:.4f}'}"
        )
    for name, value in record["decisions"].items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
    if output is not None:
        files.write_json(output / "results.json", [record])
        click.echo(f"results: {output / 'results.json'}")
    if chosen["page"] is not None:
        write_page(chosen["page"], found)
    if found["dataset"].errors:
        raise click.exceptions.Exit(3)


@click.command(epilog=REPORT_EPILOG)
@click.argument("model", type=options.EXISTING)
@click.argument("dataset", required=False)
@data
@click.option("--out", type=options.OUTPUT, required=True, help="The HTML file.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def report(model: Path, dataset: str | None, out: Path, **chosen: Any) -> None:  # noqa: ANN401
    """Write a page about a MODEL, or about its evaluation on DATASET.

    The page is one file without scripts; it needs no network.
    """
    if dataset is None:
        network = io.describe(model).backbone
        fitted = io.load(
            model, backbone=options.saved_network(network, chosen["checkpoint"])
        )
        reports.write(out, reports.fitted(model, fitted))
        click.echo(f"report: {out}")
        return
    write_page(out, measure(model, dataset, chosen))


def measure(
    model: Path, name: str, chosen: dict[str, Any], *, pictures: Path | None = None
) -> dict[str, Any]:
    """Scores the test images of a data set by a saved model.

    Args:
      model: The model file.
      name: Name or folder of the data set.
      chosen: The options of the command.
      pictures: Folder for a picture per image.

    Returns:
      ``record``, and what a page needs: ``dataset``, ``fitted``, ``result``,
      ``threshold``.
    """
    dataset = load(name, chosen["data_root"], chosen["category"], chosen["strict"])
    description = io.describe(model)
    network = options.saved_network(description.backbone, chosen["checkpoint"])
    fitted = io.load(model, backbone=network)
    with Progress(quiet=chosen["quiet"]) as progress:
        result = evaluation.evaluate(
            fitted,
            dataset,
            pictures=pictures,
            progress=functools.partial(progress, "test images"),
        )
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
        "fit_seconds": notes.get("seconds", {}).get("all"),
        "seconds_per_image": result.seconds,
    }
    return {
        "record": record,
        "dataset": dataset,
        "fitted": fitted,
        "result": result,
        "threshold": limit,
    }


def load(name: str, root: Path | None, category: str | None, strict: bool) -> Dataset:
    """Lists a data set by its name, or a folder; bad images are reported.

    Args:
      name: Name or folder.
      root: Folder of a named data set.
      category: Its category.
      strict: Whether bad images are refused.
    """
    if name not in datasets.LOADERS and Path(name).is_dir():
        dataset = datasets.folder(name, category=category, skip_bad=not strict)
    else:
        dataset = datasets.load(name, root=root, category=category, skip_bad=not strict)
    dataset = datasets.readable(dataset, skip_bad=not strict)
    for error in dataset.errors:
        click.echo(f"left out: {error}", err=True)
    if len({record.label for record in dataset.test}) < 2:
        raise ValueError(f"{name}: there must be normal and anomalous test images")
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
        found[name] = None if limit is None else float(np.mean(part > limit))
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
            read=functools.partial(images.read, item.image),
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
    click.echo(f"report: {path}")
