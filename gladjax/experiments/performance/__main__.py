"""Command line of the measurements."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import click
import jax

from gladjax import files
from gladjax.experiments import runner
from gladjax.experiments.performance import (
    accelerator,
    assignment,
    growth,
    out_of_core,
    paper_size,
    peers,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one of the measurements.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = argparse.ArgumentParser(prog="python -m gladjax.experiments.performance")
    tables = ("accelerator", "assignment", "growth", "peers", "paper_size")
    parser.add_argument("table", choices=(*tables, "out_of_core"))
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("--widths", nargs="+", type=int, default=[112, 240, 672])
    parser.add_argument("--samples", type=int, default=51_200)
    parser.add_argument("--components", type=int, default=1000)
    parser.add_argument("--images", type=int, help="of paper_size and out_of_core")
    options = parser.parse_args(arguments)
    output, n, k = options.output, options.samples, options.components
    with runner.errors():
        if options.table == "assignment":
            records = []
            for width in options.widths:
                records.append(
                    assignment.measure(width, num_samples=n, num_components=k)
                )
                files.write_json(output / "assignment.json", records)
            rows = assignment.rows(records)
        elif options.table == "growth":
            largest = {"samples": n, "components": k, "features": 672}
            records = [growth.measure(axis, largest=largest) for axis in largest]
            with files.atomic(output / "growth.svg") as file:
                growth.figure(records).savefig(file, format="svg")
            rows = growth.rows(records)
        elif options.table == "peers":
            records = peers.measure(num_samples=n // 2, num_components=k // 20)
            rows = peers.rows(records)
        elif options.table == "accelerator":
            records = accelerator.measure(
                reduced=jax.default_backend() == "cpu",
                save=lambda record: files.write_json(
                    output / "accelerator.json", record
                ),
            )
            rows = accelerator.rows(records)
        elif options.table == "out_of_core":
            records = out_of_core.measure(num_images=options.images or 2000)
            rows = out_of_core.rows(records)
        else:
            records = paper_size.measure(
                num_images=options.images or 200, num_components=k
            )
            rows = paper_size.rows(records)
        files.write_json(output / f"{options.table}.json", records)
        text = runner.table(rows)
        with files.atomic(output / f"{options.table}.md", mode="w") as file:
            file.write(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
