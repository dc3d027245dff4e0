"""Command line of the measurements."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax

from gladjax import files
from gladjax.experiments import runner
from gladjax.experiments.performance import (
    accelerator,
    assignment,
    commits,
    everyday,
    export,
    growth,
    out_of_core,
    paper_size,
    peers,
)

Records = dict[str, Any] | list[dict[str, Any]]
Table = Sequence[Sequence[str]]


def _accelerator(options: argparse.Namespace) -> tuple[Records, Table]:
    path = options.output / "accelerator.json"
    records = accelerator.measure(
        reduced=jax.default_backend() == "cpu",
        save=lambda record: files.write_json(path, record),
    )
    return records, accelerator.rows(records)


def _assignment(options: argparse.Namespace) -> tuple[Records, Table]:
    records = []
    for width in options.widths:
        one = assignment.measure(
            width, num_samples=options.samples, num_components=options.components
        )
        records.append(one)
        files.write_json(options.output / "assignment.json", records)
    return records, assignment.rows(records)


def _commits(options: argparse.Namespace) -> tuple[Records, Table]:
    if options.other is None:
        raise ValueError("commits needs --other, the folder of the other commit")
    keep = partial(files.write_json, options.output / "commits.json")
    records = commits.measure(options.other, rounds=options.rounds, keep=keep)
    return records, commits.rows(records)


def _everyday(options: argparse.Namespace) -> tuple[Records, Table]:
    if options.data_root is None:
        raise ValueError("everyday needs --data-root, the folder of MVTec AD")
    records = everyday.measure(options.data_root, rounds=options.rounds)
    return records, everyday.rows(records)


def _export(options: argparse.Namespace) -> tuple[Records, Table]:
    records = export.measure(options.data_root, rounds=options.rounds)
    return records, export.rows(records)


def _growth(options: argparse.Namespace) -> tuple[Records, Table]:
    n, k = options.samples, options.components
    largest = {"samples": n, "components": k, "features": 672}
    records = [growth.measure(axis, largest=largest) for axis in largest]
    with files.atomic(options.output / "growth.svg") as file:
        growth.figure(records).savefig(file, format="svg")
    return records, growth.rows(records)


def _out_of_core(options: argparse.Namespace) -> tuple[Records, Table]:
    records = out_of_core.measure(num_images=options.images or 2000)
    return records, out_of_core.rows(records)


def _paper_size(options: argparse.Namespace) -> tuple[Records, Table]:
    records = paper_size.measure(
        num_images=options.images or 200, num_components=options.components
    )
    return records, paper_size.rows(records)


def _peers(options: argparse.Namespace) -> tuple[Records, Table]:
    records = peers.measure(
        num_samples=options.samples // 2, num_components=options.components // 20
    )
    return records, peers.rows(records)


TABLES = {
    "accelerator": _accelerator,
    "assignment": _assignment,
    "commits": _commits,
    "everyday": _everyday,
    "export": _export,
    "growth": _growth,
    "out_of_core": _out_of_core,
    "paper_size": _paper_size,
    "peers": _peers,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one of the measurements.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = argparse.ArgumentParser(prog="python -m gladjax.experiments.performance")
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument("--output", type=Path, required=True, help="folder for results")
    parser.add_argument("--widths", nargs="+", type=int, default=[112, 240, 672])
    parser.add_argument("--samples", type=int, default=51_200)
    parser.add_argument("--components", type=int, default=1000)
    parser.add_argument("--images", type=int, help="of paper_size and out_of_core")
    parser.add_argument("--other", type=Path, help="folder of the other commit")
    parser.add_argument("--data-root", type=Path, help="of everyday and export")
    parser.add_argument("--rounds", type=int, default=5, help="of commands")
    options = parser.parse_args(arguments)
    with runner.errors():
        records, rows = TABLES[options.table](options)
        files.write_json(options.output / f"{options.table}.json", records)
        text = runner.table(rows)
        with files.atomic(options.output / f"{options.table}.md", mode="w") as file:
            file.write(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
