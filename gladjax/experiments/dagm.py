"""GLAD and others on DAGM 2007, ten artificial textures: the paper's Table 3.

    python -m gladjax.experiments.dagm --data-root DIR --output OUT

The folder holds ``Class1`` to ``Class10``; without it the table has the paper's figures
and says that ours were not run. Textures are not aligned. Expected with the paper's
backbone: a mean near 0.98 for GLAD; about five minutes per class on a core.

Notation: none.

Differs from the reference in: (1) the methods share the backbone.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, Table 3.
"""

from collections.abc import Sequence

import click

from gladjax.experiments import comparison, paper, rows, runner, study
from gladjax.experiments.runner import Record

CLASSES = tuple(f"Class{number}" for number in range(1, 11))
METHODS = ("glad", "padim", "draem", "mahaad", "patchcore")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser(
        "dagm", "Artificial textures (Table 3).", categories=CLASSES, data="dagm"
    )
    comparison.add_options(parser, methods=METHODS, default=("glad", "padim"))
    options = parser.parse_args(arguments)
    with runner.errors():
        records, missing = study.collect(options, comparison.visit)
        text = rows.write(options.output, table(records, missing))
    click.echo(text)


def table(records: Sequence[Record], missing: Sequence[str]) -> list[list[str]]:
    """Returns a row for each class, and the means beside the paper's.

    Args:
      records: The rows of all classes, methods and seeds.
      missing: Classes that are not at hand.
    """
    out = [["class", *METHODS]]
    there = list(dict.fromkeys(record["category"] for record in records))
    for category in there:
        own = [record for record in records if record["category"] == category]
        out.append([category, *_cells(own)])
    out += [[name, *[rows.NOT_RUN] * len(METHODS)] for name in missing]
    if there:
        out.append([f"mean of {len(there)}, ours", *_cells(records)])
    printed = [
        runner.percent(paper.dagm_auroc(method)) if method in METHODS[:3] else "-"
        for method in METHODS
    ]
    out.append(["mean of ten, the paper's", *printed])
    return out


def _cells(own: Sequence[Record]) -> list[str]:
    return [
        runner.percent(
            rows.mean(r["image_auroc"] for r in own if r["method"] == method)
        )
        for method in METHODS
    ]


if __name__ == "__main__":
    main()
