"""Sharper heat maps? Refinements of the map, measured; none is kept unless all gain.

    python -m gladjax.experiments.refinement --data-root DIR \
        --categories transistor toothbrush screw --output OUT

The paper names segmentation as a weakness. Four ways that need no further training are
applied to the same log-maps: other smoothing, the layers weighted by one over their
number of features (the coarse ones count less), and a guided filter whose guide is the
image or the finest layer's map. The table has pixel AUROC and AU-PRO and says which
refinement helps every category. Expected: the guided filter helps transistor and
toothbrush by less than a point and not screw; so nothing is kept.

Notation: ``I`` the guide, ``p`` the heat map, ``r`` the half side of a window, ``a b``
the coefficients of the local line ``a I + b``.

Differs from the reference in: (1) the paper smooths by a Gaussian at most.

Reference: He, Sun, Tang. "Guided Image Filtering". ECCV 2010.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gladjax import backbone as backbones
from gladjax import images, metrics, scoring
from gladjax.datasets import Dataset
from gladjax.experiments import evaluation, held_out, rows, runner, stages, study
from gladjax.experiments.evaluation import METRIC_SIZE
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Maps, Source
from gladjax.experiments.study import Case

Plane = Float[np.ndarray, "h w"]
PLAIN = "sigma 4"
RADIUS, EPSILON = 8, 1e-2


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    options = rows.parser("refinement", "Sharper heat maps?").parse_args(arguments)
    if options.motion:
        raise SystemExit("error: images must not be aligned in this study")
    study.run(options, _rows, table, notes=_notes)


def _rows(case: Case) -> None:
    options, _, dataset, net = case
    seed = options.seeds[0]
    recipe = stages.Recipe(runner.settings(options), seed)
    settings = rows.described(recipe, local=True, layers=net.layers)
    source = rows.features(options, dataset, net)
    maps = {
        name: stages.fit_layer(source, name, recipe).log_maps for name in net.layers
    }
    masks = evaluation.read_masks(dataset)

    for method in (PLAIN, "sigma 2", "sigma 6", "1 / d", "image", "finest layer"):

        def make(method=method) -> Record:  # noqa: ANN001
            heats = refined(method, source, maps, dataset)
            return {
                "pixel_auroc": metrics.pixel_auroc(masks, heats),
                "aupro": metrics.aupro(masks, heats),
            }

        study.row(case, method, seed, settings, make)


def _notes(records: Sequence[Record]) -> str:
    kept = ", ".join(helps(records)) or "none; none is kept."
    return f"Better than {PLAIN} in both numbers everywhere: {kept}"


def refined(
    method: str, source: Source, maps: Maps, dataset: Dataset
) -> Float[np.ndarray, "n h w"]:
    """Returns the heat maps of a refinement.

    Args:
      method: One of the study's.
      source: The features' frame.
      maps: Log-maps of the test images by layer.
      dataset: Their images.
    """
    sigma = float(method[6:]) if method.startswith("sigma") else 4.0
    net = source.blank.backbone
    if method == "1 / d":
        dims = dict(zip(net.layers, net.dims, strict=True))
        maps = {name: value / np.float32(dims[name]) for name, value in maps.items()}
    whole, inside = held_out.totals(source, maps)
    heats = []
    for number, (total, mask) in enumerate(zip(whole, inside, strict=True)):
        if method in ("image", "finest layer"):
            guide = _grey(dataset.test[number].image)
            if method == "finest layer":
                guide = _unit(maps[net.layers[0]][number], mask)
            heat = scoring.heat_map(total, mask, METRIC_SIZE, sigma=0.0)
            heats.append(guided(guide, np.asarray(heat)))
        else:
            heat = scoring.heat_map(total, mask, METRIC_SIZE, sigma=sigma)
            heats.append(np.asarray(heat))
    return np.stack(heats)


def guided(
    guide: Plane, values: Plane, *, radius: int = RADIUS, epsilon: float = EPSILON
) -> Plane:
    """Smooths a map along the edges of a guide.

    In every window the map is fitted by a line in the guide; a pixel gets the mean of
    the lines of all windows that it is in.

    Args:
      guide: ``I``, in [0, 1].
      values: ``p``, of the same size.
      radius: Half side of a window.
      epsilon: Variance of the guide below which a window is flat.

    Returns:
      The smoothed map.
    """
    I, p = guide.astype(np.float64), values.astype(np.float64)
    mean, level = box(I, radius), box(p, radius)
    variance = box(I * I, radius) - mean * mean
    a = (box(I * p, radius) - mean * level) / (variance + epsilon)
    b = level - a * mean
    return (box(a, radius) * I + box(b, radius)).astype(np.float32)


def box(values: Plane, radius: int) -> Plane:
    """Returns the means over square windows; the border is continued.

    Args:
      values: The map.
      radius: Half side of the window.
    """
    side = 2 * radius + 1
    padded = np.pad(values, ((radius + 1, radius),) * 2, mode="edge")
    total = padded.cumsum(axis=0).cumsum(axis=1)
    total = total - total[:1]
    total = total - total[:, :1]
    corner = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    return (corner + total[:-side, :-side]) / side**2


def _grey(path: Path) -> Plane:
    """Returns an image in grey at the size of the metrics, in [0, 1]."""
    image = np.asarray(images.read(path))
    small = np.asarray(backbones.resize(image, size=METRIC_SIZE), np.float64)
    return small.mean(axis=-1) / 255


def _unit(log_map: np.ndarray, mask: np.ndarray) -> Plane:
    """Returns a layer's map at the size of the image, in [0, 1]."""
    heat = np.asarray(scoring.heat_map(log_map, mask, METRIC_SIZE, sigma=0.0))
    low, high = heat.min(), np.quantile(heat, 0.999)
    return np.clip((heat - low) / max(float(high - low), 1e-9), 0, 1)


def helps(records: Sequence[Record]) -> list[str]:
    """Returns the refinements that raise both numbers in every category.

    Args:
      records: The rows of all categories.
    """
    plain = {r["category"]: r for r in records if r["method"] == PLAIN}
    out = []
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        better = [
            record[name] > plain[record["category"]][name]
            for record in own
            for name in ("pixel_auroc", "aupro")
        ]
        if method != PLAIN and all(better):
            out.append(method)
    return out


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and refinement.

    Args:
      records: The rows of all categories.
    """
    out = [["category", "refinement", "pixel AUROC", "AU-PRO"]]
    for record in records:
        numbers = (record["pixel_auroc"], record["aupro"])
        cells = [runner.percent(value) for value in numbers]
        out.append([record["category"], record["method"], *cells])
    return out


if __name__ == "__main__":
    main()
