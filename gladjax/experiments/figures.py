"""The paper's figures 2 to 5, of any category.

    python -m gladjax.experiments.figures --data-root DIR \
        --categories transistor toothbrush screw --output OUT

For each category: the histogram of the share of components that are active at a
position (Fig. 2), the weight map of a component and the map of the number of active
ones (Fig. 3), the decay of the global weights with a dot where covariances begin to be
degenerate (Fig. 4), and heat maps of a few test images (Fig. 5). Writes SVG and PNG and
the numbers behind them, ``results.json`` and ``table.md``. Heat maps show images of the
data set and fall under its licence. Expected: about a tenth of the components active,
fewer on objects than on textures; seconds once the models are fitted.

Notation: ``d`` features; ``n_k`` samples of a component, ``pi_k`` its weight.

Differs from the reference in: (1) Fig. 3 shows the component whose weights are the most
concentrated, among those of at least the median weight.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, Figures 2 to 5.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gladjax import datasets, files, images, plots, weights
from gladjax.datasets import Dataset
from gladjax.experiments import rows, runner, stages, study
from gladjax.experiments.runner import Record
from gladjax.experiments.stages import FittedLayer
from gladjax.experiments.study import Case
from gladjax.report import charts


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the figures.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("figures", "Figures 2 to 5.")
    parser.add_argument("--examples", type=int, default=2, help="heat maps per kind")
    options = parser.parse_args(arguments)
    study.run(options, _category, table)


def _category(case: Case) -> None:
    options, _, dataset, net = case
    seed = options.seeds[0]
    recipe = stages.Recipe(runner.settings(options), seed)
    settings = rows.described(recipe, local=True, layers=net.layers)

    def make() -> Record:
        source = rows.features(options, dataset, net)
        result = rows.glad(source, dataset, recipe)
        folder = options.output / dataset.category
        draw(result.layers, folder)
        _heat_maps(dataset, result, folder / "heat_maps", options.examples)
        return {**result.record, **numbers(result.layers)}

    study.row(case, "glad", seed, settings, make)


def draw(layers: Mapping[str, FittedLayer], folder: Path) -> None:
    """Writes Figures 2 to 4 of one category.

    Args:
      layers: The fitted layers.
      folder: Where to write.
    """
    shares = {
        name: weights.active(layer.local_weights).ravel() / len(layer.mixture.means)
        for name, layer in layers.items()
    }
    labels = ("share of components active at a position", "positions")
    _write_text(folder / "sparsity.svg", charts.histogram(shares, labels=labels))
    falls = {name: _falling(layer) for name, layer in layers.items()}
    marks = {name: degenerate(layer) for name, layer in layers.items()}
    _write_text(folder / "decay.svg", charts.decay(falls, marks=marks))
    for name, layer in layers.items():
        counts = weights.active(layer.local_weights)
        local = weights.dense(layer.local_weights, len(layer.mixture.means))
        shown = local[..., concentrated(local)]
        pair = plots.beside([plots.weight_map(shown), plots.activity_map(counts)])
        text = f"{name}: one component, and active ones (up to {counts.max()})"
        images.write_png(folder / f"weights-{name}.png", plots.titled(pair, text))


def concentrated(local: np.ndarray) -> int:
    """Returns the component whose weights are the most concentrated.

    Args:
      local: Weights, ``(h, w, k)``.
    """
    total = local.sum(axis=(0, 1))
    peak = np.square(local).sum(axis=(0, 1)) / np.maximum(total, 1e-12) ** 2
    return int(np.argmax(np.where(total >= np.median(total), peak, -1)))


def degenerate(layer: FittedLayer) -> int:
    """Returns the first component, by falling weight, of at most ``d`` samples.

    Args:
      layer: A fitted layer.

    Returns:
      Its place; the number of components if there is none. From there on an empirical
      covariance has no full rank.
    """
    falling = _falling(layer)
    few = falling * layer.info["num_samples"] < layer.mixture.means.shape[1] + 1
    return int(np.argmax(few)) if few.any() else len(falling)


def numbers(layers: Mapping[str, FittedLayer]) -> Record:
    """Returns the numbers behind the figures.

    Args:
      layers: The fitted layers.
    """
    return {
        "share_active": {
            name: float(
                weights.active(layer.local_weights).mean() / len(layer.mixture.means)
            )
            for name, layer in layers.items()
        },
        "first_degenerate": {n: degenerate(layer) for n, layer in layers.items()},
        "global_weights": {n: _falling(layer) for n, layer in layers.items()},
    }


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and layer.

    Args:
      records: The rows of all categories.
    """
    out = [["category", "layer", "components", "share active", "first degenerate"]]
    for record in records:
        for layer, count in record["num_components"].items():
            share = f"{100 * record['share_active'][layer]:.1f} %"
            first = str(record["first_degenerate"][layer])
            out.append([record["category"], layer, str(count), share, first])
    out.append(["the paper, objects", "all", "up to 1000", "about 10 %", "-"])
    return out


def _falling(layer: FittedLayer) -> np.ndarray:
    return -np.sort(-np.exp(np.asarray(layer.mixture.log_weights, np.float64)))


def _heat_maps(
    dataset: Dataset, result: rows.Result, folder: Path, examples: int
) -> None:
    """Writes the first images of each kind with their heat maps."""
    found = result.evaluation
    read = datasets.reader(dataset)
    low, high = np.quantile(found.heat_maps, [0.5, 0.999])
    for kind in dict.fromkeys(record.kind for record in dataset.test):
        chosen = [i for i, r in enumerate(dataset.test) if r.kind == kind][:examples]
        for i in chosen:
            picture = plots.scored_picture(
                read(dataset.test[i].image),
                found.heat_maps[i],
                float(found.scores[i]),
                limits=(float(low), float(high)),
            )
            path = files.inside(folder, f"{kind}-{dataset.test[i].image.stem}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            images.write_png(path, picture)


def _write_text(path: Path, text: str) -> None:
    with files.atomic(path, mode="w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
