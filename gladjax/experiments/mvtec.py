"""GLAD on MVTec AD: the paper's Tables 2 and 6.

    python -m gladjax.experiments.mvtec --data-root DIR \
        --categories transistor toothbrush screw \
        --backbone efficientnet_lite0 --output OUT

One row a category and seed, the paper's figure beside ours. The paper's backbone is the
anti-aliased WideResNet-50-2; both backbones are named in the table. Writes
``results.json``, ``table.md``, ``table.csv`` and, with ``--heat-maps``, a picture per
test image.
Expected with EfficientNet-Lite0, not aligned: image AUROC of transistor above 0.99, of
toothbrush above 0.98, of screw above 0.94; a few minutes per category on two cores.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from gladjax import datasets
from gladjax.datasets import Dataset
from gladjax.experiments import paper, prepared, rows, runner
from gladjax.experiments.runner import Record

PAPER_BACKBONE = "wide_resnet50_2"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m gladjax.experiments.mvtec",
        description="GLAD on MVTec AD (Tables 2 and 6 of the paper).",
    )
    out.add_argument("--data-root", type=Path, required=True, help="data folder")
    out.add_argument("--categories", nargs="+", required=True, help="their names")
    out.add_argument("--tfds", action="store_true", help="it holds prepared records")
    runner.add_options(out)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    options = parser().parse_args(arguments)
    with runner.errors():
        text = rows.write(options.output, summary(run(options)))
    click.echo(text)
    click.echo(f"peak memory {runner.peak_memory() / 2**30:.2f} GiB", err=True)


def run(options: argparse.Namespace) -> list[Record]:
    """Returns one record per category and seed; finished ones are not run again."""
    sets = [_dataset(options, category) for category in options.categories]
    return runner.run(sets, options)


def _dataset(options: argparse.Namespace, category: str) -> Dataset:
    root = options.data_root
    if options.tfds:
        folder = options.output / "tfds"
        return prepared.dataset("mvtec", category, data_dir=root, folder=folder)
    return datasets.load(
        "mvtec",
        root=root,
        category=category,
        skip_bad=options.skip_bad,
        require_masks=options.require_masks,
    )


def summary(records: Sequence[Record]) -> list[list[str]]:
    """Returns the table: ours and the paper's figures, by category, and the mean."""
    ours = records[0]["backbone"]
    head = [
        "category",
        "seeds",
        f"image AUROC ({ours})",
        f"paper ({PAPER_BACKBONE})",
        f"pixel AUROC ({ours})",
        f"paper ({PAPER_BACKBONE})",
        "AU-PRO",
        "components",
        "active",
        "fit s",
        "ms / image",
    ]
    out, means = [head], []
    for category in dict.fromkeys(record["category"] for record in records):
        own = [record for record in records if record["category"] == category]
        image = [record["image_auroc"] for record in own]
        means.append(rows.mean(image))
        last = own[-1]
        out.append(
            [
                category,
                str(len(own)),
                rows.cell(image),
                runner.percent(_known(lambda c=category: paper.glad_auroc(c))),
                rows.cell([record["pixel_auroc"] for record in own]),
                runner.percent(_known(lambda c=category: paper.pixel_auroc("glad", c))),
                rows.cell([record["aupro"] for record in own]),
                "/".join(str(n) for n in last["num_components"].values()),
                "/".join(f"{n:.0f}" for n in last["active_per_position"].values()),
                f"{sum(r['fit_seconds'] for r in own) / len(own):.0f}",
                f"{1000 * sum(last['seconds_per_image'].values()):.0f}",
            ]
        )
    mean = runner.percent(rows.mean(means))
    out.append(["mean", "", mean, *[""] * (len(head) - 3)])
    return out


def _known(figure: Callable[[], float | None]) -> float | None:
    """Returns a figure of the paper, None for what it has not."""
    try:
        return figure()
    except (KeyError, ValueError):
        return None


if __name__ == "__main__":
    main()
