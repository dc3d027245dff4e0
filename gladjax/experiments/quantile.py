"""Which quantile of the log-map should be the score? A study of the supplement.

    python -m gladjax.experiments.quantile --data-root DIR \
        --categories transistor toothbrush screw --output OUT

The choice is made on development data: a fifth of the training images is held out, and
small defects are pasted into copies of them (`gladjax.experiments.held_out`); the
quantile of the highest mean AUROC wins. The table shows beside it what every quantile
gives on the test images. That column is a study: it looks at test labels, and nothing
is chosen by it. Expected: flat around the paper's 0.5 %, worse at the minimum or beyond
10 %.

Notation: ``q`` the quantile.

Differs from the reference in: (1) the development data.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.1, supplement.
"""

from collections.abc import Sequence

import numpy as np

from gladjax import metrics
from gladjax.experiments import held_out, rows, runner, stages, study
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case

QUANTILES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
PAPER = 0.005


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    options = rows.parser("quantile", "Which quantile?").parse_args(arguments)
    study.run(options, _rows, table, notes=_notes)


def _rows(case: Case) -> None:
    for seed in case.options.seeds:
        _sweeps(case, seed)


def _sweeps(case: Case, seed: int) -> None:
    """Computes the sweeps on development and test data of a category and seed."""
    options, _, dataset, net = case
    recipe = stages.Recipe(runner.settings(options), seed)
    settings = rows.described(recipe, local=True, layers=net.layers)
    made, prepare = held_out.pasted(dataset, seed=seed)
    for method, data, change, told in (
        ("development", made, prepare, f"pasted {seed}"),
        ("test", dataset, None, ""),
    ):

        def sweep_(data=data, change=change, told=told) -> Record:  # noqa: ANN001
            source = rows.features(options, data, net, prepare=change, prepared=told)
            labels = np.array([record.label for record in data.test])
            return {"auroc": sweep(source, labels, recipe)}

        study.row(case, method, seed, settings, sweep_)


def _notes(records: Sequence[Record]) -> str:
    return (
        f"Chosen on development data: {choose(records):g} (the paper: {PAPER:g}). The "
        "test columns are a study; nothing is chosen by them."
    )


def sweep(source: Source, labels: np.ndarray, recipe: stages.Recipe) -> list[float]:
    """Returns the image AUROC at every quantile.

    Args:
      source: The features.
      labels: Of its test images.
      recipe: How to fit.
    """
    layers = source.blank.backbone.layers
    maps = {name: stages.fit_layer(source, name, recipe).log_maps for name in layers}
    whole, inside = held_out.totals(source, maps)
    found = []
    for q in QUANTILES:
        pairs = zip(whole, inside, strict=True)
        scores = [-np.quantile(values[mask], q) for values, mask in pairs]
        found.append(metrics.auroc(labels, np.array(scores)))
    return found


def choose(records: Sequence[Record]) -> float:
    """Returns the quantile of the best mean on development data.

    Args:
      records: The rows; those of test data are not looked at.

    Returns:
      The quantile, of equal ones the nearest to the paper's.
    """
    mean = _mean([r for r in records if r["method"] == "development"])
    near = -np.abs(np.log((np.array(QUANTILES) + 1e-4) / PAPER))
    return QUANTILES[int(np.lexsort((near, np.round(mean, 6)))[-1])]


def _mean(own: Sequence[Record]) -> np.ndarray:
    """Returns the mean over categories of the means over seeds."""
    by_category: dict[str, list[list[float]]] = {}
    for record in own:
        by_category.setdefault(record["category"], []).append(record["auroc"])
    means = [np.mean(found, axis=0) for found in by_category.values()]
    return np.mean(means, axis=0)


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each quantile.

    Args:
      records: The rows of all categories and seeds.
    """
    head, columns = ["quantile"], []
    for method in ("development", "test"):
        own = [record for record in records if record["method"] == method]
        for category in dict.fromkeys(record["category"] for record in own):
            head.append(f"{category}, {method}")
            columns.append(_mean([r for r in own if r["category"] == category]))
        head.append(f"mean, {method}")
        columns.append(_mean(own))
    rows_ = [
        [f"{q:g}", *(runner.percent(float(column[i])) for column in columns)]
        for i, q in enumerate(QUANTILES)
    ]
    return [head, *rows_]


if __name__ == "__main__":
    main()
