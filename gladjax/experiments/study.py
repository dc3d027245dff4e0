"""The course of a study: data at hand, rows that are there, one table at the end.

A study visits its data sets one after another and adds to the records what is missing.
What a visit computes is the study's own; how rows are resumed, and how the table is
written and shown, is the same for all of them.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click

from gladjax.backbone import Backbone
from gladjax.datasets import Dataset
from gladjax.experiments import rows, runner
from gladjax.experiments.runner import Record


class Case(NamedTuple):
    """A data set that is visited.

    Attributes:
      options: The command line.
      records: The rows that are there; new ones are appended.
      dataset: The data set.
      net: The backbone.
    """

    options: argparse.Namespace
    records: list[Record]
    dataset: Dataset
    net: Backbone


Visit = Callable[[Case], None]


def run(
    options: argparse.Namespace,
    visit: Visit,
    table: Callable[[list[Record]], list[list[str]]],
    *,
    notes: Callable[[list[Record]], str] | None = None,
) -> None:
    """Runs a study and shows its table.

    Args:
      options: The command line, see `gladjax.experiments.rows.parser`.
      visit: Computes the rows of a data set.
      table: Turns all records into rows of text.
      notes: Turns them into the text below the table; none by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    with runner.errors():
        records, _ = collect(options, visit)
        below = "" if notes is None else notes(records)
        text = rows.write(options.output, table(records), notes=below)
    click.echo(text)


def collect(
    options: argparse.Namespace, visit: Visit
) -> tuple[list[Record], list[str]]:
    """Visits the data sets that the command line names.

    Args:
      options: The command line.
      visit: Computes the rows of a data set.

    Returns:
      All records, those of earlier runs first, and the categories that are not at hand.

    Raises:
      ValueError: If the data or the options do not fit.
      OSError: If a file cannot be read or written.
    """
    sets, missing = rows.available(options)
    records = runner.load_records(options.output)
    if sets:
        net = rows.network(options)
        for dataset in sets:
            visit(Case(options, records, dataset, net))
    return records, missing


def row(
    case: Case,
    method: str,
    seed: int,
    settings: Mapping[str, Any],
    make: Callable[[], Record],
) -> Record:
    """Returns the record of a row, computed and written only if it is not there.

    Args:
      case: The data set.
      method: Name of the method.
      seed: Its randomness.
      settings: Whatever else decides the numbers.
      make: Computes what the record says beside what identifies it.
    """
    wanted = runner.identity(case.dataset, case.net, method, seed, settings)
    wanted |= {"data": case.dataset.name}
    return runner.resume(
        case.options.output, case.records, wanted, lambda: {**wanted, **make()}
    )
