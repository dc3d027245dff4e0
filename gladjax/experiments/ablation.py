"""What each part of GLAD is worth: the paper's Table 1.

    python -m gladjax.experiments.ablation --data-root DIR \
        --categories transistor toothbrush screw --output OUT

One row for each variant: local or global weights, pairs of layers, covariances shrunk
or not, K-MLE or EM; categories and seeds share features and mixtures. Memory is that of
the fitted arrays, time that of features and scoring, both measured. Writes
``results.json``, ``findings.json``, ``table.md`` and ``table.csv``. Expected: the order
of the paper's findings; with 200 components a few minutes per category on a core.

Notation: layers are numbered from 1, fine to coarse, as in the paper.

Differs from the reference in: (1) the means are over the categories named.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, Table 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from gladjax import files
from gladjax.experiments import paper, rows, runner, stages, study
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case


class Variant(NamedTuple):
    """A row of the table.

    Attributes:
      estimator: Of the mixture.
      local: Whether weights are local.
      layers: Numbers of the layers.
      oas: Whether covariances are shrunk.
    """

    estimator: str = "kmle"
    local: bool = True
    layers: tuple[int, ...] = (1, 2, 3)
    oas: bool = True


FULL = "glad"
VARIANTS = {
    FULL: Variant(),
    "global weights": Variant(local=False),
    "layers 1+2": Variant(layers=(1, 2)),
    "layers 2+3": Variant(layers=(2, 3)),
    "layers 1+3": Variant(layers=(1, 3)),
    "no shrinkage": Variant(oas=False),
    "EM": Variant(estimator="em"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("ablation", "What each part of GLAD is worth (Table 1).")
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)
    )
    options = parser.parse_args(arguments)
    with runner.errors():
        records, _ = study.collect(options, _rows)
        found = findings(records)
        files.write_json(options.output / "findings.json", found)
        notes = runner.table(_told(found))
        text = rows.write(options.output, table(records), notes=notes)
    click.echo(text)


def _rows(case: Case) -> None:
    source = rows.features(case.options, case.dataset, case.net)
    for seed in case.options.seeds:
        for name in case.options.variants:
            _row(case, source, seed, name)


def _row(case: Case, source: Source, seed: int, name: str) -> None:
    """Computes the row of a seed and variant, unless it is there."""
    variant, chosen = VARIANTS[name], runner.settings(case.options)
    there = case.net.layers
    layers = [there[n - 1] for n in variant.layers if n <= len(there)]
    recipe = stages.Recipe(chosen, seed, variant.estimator, variant.oas)
    settings = rows.described(recipe, local=variant.local, layers=layers)

    def make() -> Record:
        return rows.glad(
            source, case.dataset, recipe, local=variant.local, layers=layers
        ).record

    study.row(case, name, seed, settings, make)


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns the table: a row for each variant, the paper's figures beside.

    Args:
      records: The rows of all categories and seeds.
    """
    categories = list(dict.fromkeys(record["category"] for record in records))
    head = ["variant", *categories, "mean", "pixel AUROC", "AU-PRO"]
    head += ["model MB", "score ms", "fit s", "seeds"]
    head += ["paper AUROC (wide_resnet50_2)", "paper GB", "paper s"]
    out = [head]
    for name, variant in VARIANTS.items():
        own = [record for record in records if record["method"] == name]
        printed = paper_row(variant)
        beside = ["-"] * 3
        if printed is not None:
            beside = [
                runner.percent(printed.auroc),
                f"{printed.memory_gb:g}",
                f"{printed.seconds_per_image:g}",
            ]
        if not own:
            out.append([name, *[rows.NOT_RUN], *[""] * (len(head) - 5), *beside])
            continue
        cells = [
            rows.cell(r["image_auroc"] for r in own if r["category"] == category)
            for category in categories
        ]
        out.append(
            [
                name,
                *cells,
                runner.percent(_mean(own, "image_auroc")),
                runner.percent(_mean(own, "pixel_auroc")),
                runner.percent(_mean(own, "aupro")),
                f"{_mean(own, 'model_bytes') / 1e6:.2f}",
                f"{1000 * _score(own):.1f}",
                f"{_mean(own, 'fit_seconds'):.0f}",
                " ".join(str(s) for s in sorted({r["seed"] for r in own})),
                *beside,
            ]
        )
    return out


def paper_row(
    variant: Variant, *, backbone: str = "wide_resnet50_2"
) -> paper.AblationRow | None:
    """Returns the paper's row of a variant, None where it has none."""
    for printed in paper.ablation():
        same = (printed.mixture, printed.local_weights, printed.layers, printed.oas)
        if printed.backbone == backbone and same == tuple(variant):
            return printed
    return None


def findings(records: Sequence[Record]) -> list[Record]:
    """Compares the variants with the full model, as the paper's text does.

    Args:
      records: The rows of all categories and seeds.

    Returns:
      What the paper found, its difference or ratio, ours over the categories and seeds
      that both variants have, and whether the order is the same; None where a variant
      was not run. Differences below 0.05 point count as none, ratios below 1.02 as 1.
    """
    out = []
    for name in ("global weights", "no shrinkage", "EM", *_pairs()):
        ours = _pair(records, name, lambda r: r["image_auroc"])
        printed = _printed(name)
        gain = None if ours is None else 100 * (ours[0] - ours[1])
        here = 100 * (printed[0].auroc - printed[1].auroc)
        out.append(
            {
                "finding": f"image AUROC: {FULL} minus {name}, points",
                "paper": round(here, 2),
                "ours": gain,
                "same_order": None if gain is None else bool(gain > 0.05),
            }
        )
    measured = (
        ("scoring", "global weights", _score_seconds, "seconds_per_image"),
        ("model", "no shrinkage", lambda r: r["model_bytes"], "memory_gb"),
        ("fit", "EM", lambda r: r["fit_seconds"], ""),
    )
    for what, name, measure, field in measured:
        ours = _pair(records, name, measure)
        ratio = None if ours is None else ours[1] / ours[0]
        printed = _printed(name)
        here = 2.5  # "more than 2.5 times slower" (section 4.1).
        if field:
            here = getattr(printed[1], field) / getattr(printed[0], field)
        out.append(
            {
                "finding": f"{what}: {name} over {FULL}, ratio",
                "paper": round(here, 2),
                "ours": ratio,
                "same_order": None if ratio is None else bool(ratio > 1.02),
            }
        )
    return out


def _pairs() -> tuple[str, ...]:
    return tuple(name for name in VARIANTS if name.startswith("layers"))


def _printed(name: str) -> tuple[paper.AblationRow, paper.AblationRow]:
    full, other = paper_row(VARIANTS[FULL]), paper_row(VARIANTS[name])
    if full is None or other is None:
        raise ValueError(f"the paper has no row {name!r}")
    return full, other


def _pair(
    records: Sequence[Record], name: str, measure: Callable[[Record], float]
) -> tuple[float, float] | None:
    """Returns the means of the full model and of a variant over what both have."""
    values = {
        method: {
            (r["data"], r["category"], r["seed"]): measure(r)
            for r in records
            if r["method"] == method
        }
        for method in (FULL, name)
    }
    both = values[FULL].keys() & values[name].keys()
    if not both:
        return None
    first, second = (
        sum(values[method][key] for key in both) / len(both) for method in (FULL, name)
    )
    return first, second


def _score_seconds(record: Record) -> float:
    return record["seconds_per_image"]["score"]


def _score(own: Sequence[Record]) -> float:
    return sum(_score_seconds(record) for record in own) / len(own)


def _mean(own: Sequence[Record], name: str) -> float:
    found = rows.balanced(own, name)
    return float("nan") if found is None else found


def _told(found: Sequence[Record]) -> list[list[str]]:
    out = [["finding", "paper", "ours", "same order"]]
    for one in found:
        ours = one["ours"]
        out.append(
            [
                one["finding"],
                f"{one['paper']:.2f}",
                rows.NOT_RUN if ours is None else f"{ours:.2f}",
                {None: "-", True: "yes", False: "no"}[one["same_order"]],
            ]
        )
    return out


if __name__ == "__main__":
    main()
