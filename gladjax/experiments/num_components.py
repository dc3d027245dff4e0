"""How many components to start from? A study of the supplement.

    python -m gladjax.experiments.num_components --data-root DIR \
        --categories transistor toothbrush screw --output OUT

A model of four fifths of the training images is fitted from each number of components;
the number under which the held-out fifth is likeliest wins. The table shows beside it
the components that survive and what the models give on the test images. That column is
a study: it looks at test labels, and nothing is chosen by it. Expected: a likelihood
that rises and then levels off, and an AUROC that hardly depends on it.

Notation: ``K0`` components to start from.

Differs from the reference in: (1) the held-out images; (2) the numbers tried.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.2, supplement.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gladjax.experiments import held_out, rows, runner, sources, stages, study
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("num_components", "How many components?")
    parser.add_argument(
        "--numbers", nargs="+", type=int, default=[25, 50, 100, 200, 400]
    )
    options = parser.parse_args(arguments)
    study.run(options, _rows, table, notes=_notes)


def _rows(case: Case) -> None:
    source = rows.features(case.options, case.dataset, case.net)
    for seed in case.options.seeds:
        for number in case.options.numbers:
            _row(case, source, seed, number)


def _row(case: Case, source: Source, seed: int, number: int) -> None:
    """Computes the row of a seed and a number of components to start from."""
    chosen = dataclasses.replace(runner.settings(case.options), num_components=number)
    recipe = stages.Recipe(chosen, seed)
    settings = rows.described(recipe, local=True, layers=case.net.layers)
    learn, _ = held_out.split(len(case.dataset.train), seed=seed)
    name = f"held out {seed}"

    def make() -> Record:
        part = sources.subset(source, learn, test="test", name=name)
        rest = sources.subset(source, learn, test="rest", name=name)
        record = rows.glad(part, case.dataset, recipe).record
        return {**record, "held_out": likelihood(rest, recipe)}

    study.row(case, f"K0 = {number}", seed, settings, make)


def _notes(records: Sequence[Record]) -> str:
    return (
        f"Chosen by held-out likelihood: {choose(records)}. The column of the test "
        "images is a study; nothing is chosen by it."
    )


def likelihood(source: Source, recipe: stages.Recipe, *, local: bool = True) -> float:
    """Returns the mean log-probability of held-out images, in nats per cell.

    Args:
      source: Features whose test images are the held-out ones.
      recipe: How to fit.
      local: Whether weights are local.
    """
    layers = source.blank.backbone.layers
    maps = {
        name: stages.fit_layer(source, name, recipe, local=local, test="rest").log_maps
        for name in layers
    }
    whole, inside = held_out.totals(source, maps)
    return float(whole[inside].mean(dtype=np.float64))


def choose(records: Sequence[Record]) -> int:
    """Returns the number of the best mean held-out likelihood.

    Args:
      records: The rows; their AUROCs are not looked at.

    Returns:
      One of the numbers that most categories were fitted with: means over different
      categories do not compare.
    """
    known = {
        n: len({r["category"] for r in _of(records, n)}) for n in _numbers(records)
    }
    most = [n for n, count in known.items() if count == max(known.values())]
    return max(most, key=lambda n: rows.balanced(_of(records, n), "held_out") or 0.0)


def _numbers(records: Sequence[Record]) -> list[int]:
    return sorted({record["settings"]["num_components"] for record in records})


def _of(records: Sequence[Record], number: int) -> list[Record]:
    return [r for r in records if r["settings"]["num_components"] == number]


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and number.

    Args:
      records: The rows of all categories and seeds.
    """
    head = ["category", "K0", "held-out nats / cell", "image AUROC, test (study)"]
    head += ["components left", "active", "fit s", "seeds"]
    out = [head]
    for category in dict.fromkeys(record["category"] for record in records):
        for number in _numbers(records):
            own = [r for r in _of(records, number) if r["category"] == category]
            if not own:
                continue
            last = own[-1]
            held = [record["held_out"] for record in own]
            out.append(
                [
                    category,
                    str(number),
                    f"{np.mean(held):.2f}",
                    rows.cell(record["image_auroc"] for record in own),
                    "/".join(str(n) for n in last["num_components"].values()),
                    "/".join(f"{n:.0f}" for n in last["active_per_position"].values()),
                    f"{np.mean([record['fit_seconds'] for record in own]):.0f}",
                    " ".join(str(record["seed"]) for record in own),
                ]
            )
    return out


if __name__ == "__main__":
    main()
