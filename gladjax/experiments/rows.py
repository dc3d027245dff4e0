"""What the tables share: options, the data at hand, rows of GLAD, files written.

A row is a record as in `gladjax.experiments.runner`, made from the stages of
`gladjax.experiments.stages`. Rows are resumed, and so is what they are made of: a run
that was killed goes on where it stopped.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets, files
from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.detector import Settings
from gladjax.experiments import evaluation, prepared, runner, sources, stages
from gladjax.experiments.evaluation import Evaluation
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Prepare, Source
from gladjax.experiments.stages import Recipe

NOT_RUN = "not run here"


class Result(NamedTuple):
    """A row of GLAD, and the numbers behind it.

    Attributes:
      record: What the row says.
      evaluation: Scores and heat maps of the test images.
      layers: The fitted layers.
    """

    record: Record
    evaluation: Evaluation
    layers: dict[str, stages.FittedLayer]


def parser(
    name: str, description: str, *, categories: Sequence[str] = (), data: str = "mvtec"
) -> argparse.ArgumentParser:
    """Returns the parser of an experiment.

    Args:
      name: The module.
      description: What it does, in one line.
      categories: Those of the paper's table, the default; none: they must be named.
      data: The data set, by its name in `gladjax.datasets.LOADERS`.
    """
    out = argparse.ArgumentParser(
        prog=f"python -m gladjax.experiments.{name}", description=description
    )
    add = out.add_argument
    add("--data", default=data, choices=list(datasets.LOADERS), help="which data set")
    add("--data-root", type=Path, help="its folder")
    add(
        "--categories",
        nargs="+",
        required=not categories,
        default=list(categories),
        help="their names; those of the paper that are not there are not run",
    )
    add("--tfds", action="store_true", help="the folder holds prepared records")
    add("--cache", type=Path, help="folder for features and mixtures; OUTPUT/cache")
    runner.add_options(out)
    out.set_defaults(listed=bool(categories), paper=True)
    return out


def available(options: argparse.Namespace) -> tuple[list[Dataset], list[str]]:
    """Returns the data sets asked for, and the categories that are not at hand.

    Args:
      options: The command line.

    Raises:
      DatasetError: If data are not as they should be, or, where the experiment does not
        list the paper's categories, not there.
    """
    found, missing = [], []
    for category in options.categories:
        root = options.data_root
        known = root is not None and (options.tfds or (root / category).exists())
        if options.listed and not known:
            missing.append(category)
            continue
        if options.tfds and root is not None:
            one = prepared.dataset(
                options.data, category, data_dir=root, folder=cache(options) / "tfds"
            )
        else:
            one = datasets.load(
                options.data,
                root=root,
                category=category,
                skip_bad=options.skip_bad,
                require_masks=options.require_masks,
            )
        found.append(one)
        runner.tell(one)
    return found, missing


def network(options: argparse.Namespace) -> Backbone:
    """Returns the backbone that the command line names."""
    return backbones.load(options.backbone, checkpoint=options.checkpoint)


def cache(options: argparse.Namespace) -> Path:
    """Returns the folder of the pieces."""
    return options.cache or options.output / "cache"


def features(
    options: argparse.Namespace,
    dataset: Dataset,
    net: Backbone,
    *,
    chosen: Settings | None = None,
    prepare: Prepare | None = None,
    prepared: str = "",
) -> Source:
    """Returns the features of a data set, see `gladjax.experiments.sources.extract`.

    Args:
      options: The command line.
      dataset: The data set.
      net: The backbone.
      chosen: Settings, those of the command line by default.
      prepare: Changes images before all else.
      prepared: Says what ``prepare`` does.
    """
    with runner.Bar(f"{dataset.category} {prepared}".strip()) as bar:
        return sources.extract(
            cache(options),
            dataset,
            net,
            settings=runner.settings(options) if chosen is None else chosen,
            prepare=prepare,
            prepared=prepared,
            progress=bar,
        )


def described(recipe: Recipe, *, local: bool, layers: Sequence[str]) -> Record:
    """Returns the settings of a row of GLAD as its record has them."""
    chosen = recipe.settings
    prior = {"prior": chosen.prior} if chosen.prior else {}
    return {
        **prior,
        **recipe.described(),
        "local": local,
        "layers": list(layers),
        "radius": chosen.radius,
        "neighbourhood": chosen.neighbourhood,
        "margin": chosen.margin,
        "quantile": chosen.quantile,
        "sigma": chosen.sigma,
        "motion": chosen.motion,
        "coarse": chosen.coarse,
    }


def glad(
    source: Source,
    dataset: Dataset,
    recipe: Recipe,
    *,
    local: bool = True,
    layers: Sequence[str] = (),
    masks: np.ndarray | None = None,
    test: str = "",
) -> Result:
    """Returns a row of GLAD from features at hand.

    Args:
      source: The features.
      dataset: Whose test images they are of.
      recipe: How to fit a layer.
      local: Whether weights are local.
      layers: Names of the layers to use; all by default.
      masks: Anomalous pixels, if they are not those of the data set.
      test: Says which images ``source.test`` holds, if not the test images.
    """
    names = list(layers) or list(source.blank.backbone.layers)
    fitted = {
        name: stages.fit_layer(source, name, recipe, local=local, test=test)
        for name in names
    }
    maps = {name: layer.log_maps for name, layer in fitted.items()}
    scores, heats, tail = sources.summarise(source, maps, shape=evaluation.METRIC_SIZE)
    info = {name: layer.info for name, layer in fitted.items()}
    seconds = sum(one["score_seconds"] for one in info.values()) + tail
    result = Evaluation(
        scores=scores,
        labels=np.array([record.label for record in dataset.test]),
        heat_maps=heats,
        masks=evaluation.read_masks(dataset) if masks is None else masks,
        seconds={**source.seconds, "score": seconds},
    )
    record = {
        **evaluation.measures(result),
        "num_train": len(next(iter(source.train.values()))),
        "num_test": len(scores),
        "num_components": {k: v["num_components"] for k, v in info.items()},
        "active_per_position": {k: v["active_per_position"] for k, v in info.items()},
        "steps": {k: v["steps"] for k, v in info.items()},
        "model_bytes": sum(v["bytes"] for v in info.values()),
        "fit_seconds": sum(v["seconds"] + v["weights_seconds"] for v in info.values()),
        "mixture_seconds": {k: v["seconds"] for k, v in info.items()},
        "seconds_per_image": result.seconds,
        "reduced": stages.reduced(recipe),
    }
    return Result(record, result, fitted)


def cell(values: Iterable[float | None]) -> str:
    """Returns mean and spread of fractions in percent, a dash for none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean, deviation = runner.spread(known)
    text = runner.percent(mean)
    return f"{text} ± {100 * deviation:.2f}" if len(known) > 1 else text


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean of what is known, None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def balanced(records: Sequence[Record], name: str) -> float | None:
    """Returns the mean over categories of the means over seeds, None if none is known.

    Args:
      records: Of one method.
      name: Of the number.
    """
    categories = dict.fromkeys(record["category"] for record in records)
    return mean(
        mean(r[name] for r in records if r["category"] == category)
        for category in categories
    )


def write(output: Path, table: Sequence[Sequence[str]], *, notes: str = "") -> str:
    """Writes ``table.md`` and ``table.csv``.

    Args:
      output: Their folder.
      table: Rows of text; the first one is the head.
      notes: Text below the table.

    Returns:
      The text of ``table.md``.
    """
    text = runner.table(table) + (f"\n\n{notes}" if notes else "")
    with files.atomic(output / "table.md", mode="w") as file:
        file.write(text + "\n")
    with files.atomic(output / "table.csv", mode="w") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    return text
