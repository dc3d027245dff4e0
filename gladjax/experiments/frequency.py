"""Textures: weights that are local in frequency instead of space. An attempt.

    python -m gladjax.experiments.frequency --data elpv --categories poly --output OUT
    python -m gladjax.experiments.frequency --data-root DIR \
        --categories transistor screw --output OUT

The paper says that it is weak on textures, where places mean nothing, and expects more
of a localisation in frequency. Here every cell gets a class by what frequencies the
image has around it (energies of four octaves and the direction of its gradients, in
sixteen clusters), and the mixture of GLAD gets weights by class instead of by place:
counts of labels in training images, with ten samples of the global weights added.
Everything else is GLAD. Objects stand beside as controls. Expected: see
``experiments/README.md``; kept only if textures gain.

Notation: ``c`` the class of a cell, ``pi_k(c)`` the weights of a class.

Differs from the reference in: (1) all of it; the paper only names the direction.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 5.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gladjax import assign, images, scoring, seeding
from gladjax import backbone as backbones
from gladjax.datasets import Dataset
from gladjax.datasets import Record as Listed
from gladjax.experiments import evaluation, rows, runner, sources, stages, study
from gladjax.experiments.evaluation import METRIC_SIZE, Evaluation
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case
from gladjax.mixture import GaussianMixture

CLASSES = 16
PRIOR = 10.0
STEPS = 10
CHUNK = 4096
METHODS = ("glad", "global weights", "frequency")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    options = rows.parser("frequency", "Weights by frequency.").parse_args(arguments)
    study.run(options, _rows, table)


def _rows(case: Case) -> None:
    options, dataset, net = case.options, case.dataset, case.net
    source = rows.features(options, dataset, net)
    for seed, method in itertools.product(options.seeds, METHODS):
        recipe = stages.Recipe(runner.settings(options), seed)
        local = method != "global weights"
        settings = rows.described(recipe, local=local, layers=net.layers)

        def make(method=method, local=local, recipe=recipe) -> Record:  # noqa: ANN001
            if method == "frequency":
                return by_frequency(source, dataset, recipe)
            return rows.glad(source, dataset, recipe, local=local).record

        study.row(case, method, seed, settings, make)


def by_frequency(source: Source, dataset: Dataset, recipe: stages.Recipe) -> Record:
    """Returns a row of GLAD with weights by the frequencies around a cell.

    Args:
      source: The features.
      dataset: Whose they are.
      recipe: How the mixtures are fitted.
    """
    train = np.stack([signature(_grey(r)) for r in dataset.train])
    test = np.stack([signature(_grey(r)) for r in dataset.test])
    centres, scale = clusters(jax.random.key(recipe.seed), train)
    maps = {}
    for name in source.blank.backbone.layers:
        fitted = stages.fit_layer(source, name, recipe).mixture
        shape = source.train[name].shape[1:3]
        classes = [classify(x, centres, scale, shape) for x in (train, test)]
        log_weights = weigh(fitted, source.train[name], classes[0])
        maps[name] = _score(fitted, log_weights, source.test[name], classes[1])
    scores, heats, _ = sources.summarise(source, maps, shape=METRIC_SIZE)
    result = Evaluation(
        scores=scores,
        labels=np.array([record.label for record in dataset.test]),
        heat_maps=heats,
        masks=evaluation.read_masks(dataset),
        seconds={},
    )
    return {**evaluation.measures(result), "reduced": stages.reduced(recipe)}


def _grey(record: Listed) -> np.ndarray:
    image = np.asarray(images.read(record.image))
    small = np.asarray(backbones.resize(image, size=METRIC_SIZE), np.float32)
    return small.mean(axis=-1) / np.float32(255)


@jax.jit
def signature(grey: Float[Array | np.ndarray, "h w"]) -> Float[Array, "_h _w 6"]:
    """Returns what frequencies an image has around each cell of a quarter of its size.

    Args:
      grey: The image, in [0, 1].

    Returns:
      Logarithms of the energies of four octaves, and the two numbers of the direction
      of the gradients.
    """
    grey = jnp.asarray(grey)
    levels = [grey, *(scoring.smooth(grey, sigma=s) for s in (1.0, 2.0, 4.0, 8.0))]
    near = [
        scoring.smooth((fine - coarse) ** 2, sigma=8.0)
        for fine, coarse in itertools.pairwise(levels)
    ]
    dy, dx = jnp.gradient(levels[1])
    moments = [dx * dx - dy * dy, 2 * dx * dy, dx * dx + dy * dy]
    across, along, energy = (scoring.smooth(m, sigma=8.0) for m in moments)
    bands = [jnp.log(jnp.maximum(e, 1e-8)) for e in near]
    turned = [part / (energy + 1e-6) for part in (across, along)]
    whole = jnp.stack([*bands, *turned], axis=-1)
    h, w, c = whole.shape
    return whole.reshape(h // 4, 4, w // 4, 4, c).mean(axis=(1, 3))


def clusters(
    key: Array, signatures: Float[np.ndarray, "m h w c"]
) -> tuple[Float[np.ndarray, "b c"], Float[np.ndarray, " c"]]:
    """Returns centres of the classes, and the scale of each number.

    Args:
      key: Draws samples and first centres.
      signatures: Of the training images.
    """
    samples = signatures.reshape(-1, signatures.shape[-1])
    scale = np.maximum(samples.std(axis=0), 1e-6)
    draw, start = jax.random.split(key)
    used = np.ones(len(samples), bool)
    index = seeding.subsample(draw, used, min(len(samples), 20_000))
    x = (samples / scale)[np.asarray(index)]
    centres = np.array(seeding.kmeans_plus_plus(start, jnp.asarray(x), CLASSES))
    for _ in range(STEPS):
        labels = _nearest(x, centres)
        for c in np.unique(labels):
            centres[c] = x[labels == c].mean(axis=0)
    return centres, scale


def classify(
    signatures: Float[np.ndarray, "m _h _w c"],
    centres: Float[np.ndarray, "b c"],
    scale: Float[np.ndarray, " c"],
    shape: tuple[int, int],
) -> Int[np.ndarray, "m h w"]:
    """Returns the class of every cell of a layer.

    Args:
      signatures: Of some images.
      centres: Of the classes.
      scale: Of the numbers.
      shape: Height and width of the layer.
    """
    m, h, w, c = signatures.shape
    rows_ = (2 * np.arange(shape[0]) + 1) * h // (2 * shape[0])
    columns = (2 * np.arange(shape[1]) + 1) * w // (2 * shape[1])
    picked = signatures[:, rows_][:, :, columns] / scale
    return _nearest(picked.reshape(-1, c), centres).reshape(m, *shape)


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    gap = np.square(centres).sum(axis=1)[None] - 2 * x @ centres.T
    return np.argmin(gap, axis=1)


def weigh(
    fitted: GaussianMixture,
    maps: Float[np.ndarray, "m h w d"],
    classes: Int[np.ndarray, "m h w"],
) -> Float[np.ndarray, "b k"]:
    """Returns the logarithms of the weights of every class.

    Args:
      fitted: The mixture; means and covariances stay.
      maps: Features of the training images.
      classes: Class of every cell.
    """
    samples, at = maps.reshape(-1, maps.shape[-1]), classes.ravel()
    if len(samples) > 50_000:
        chosen = np.random.default_rng(0).choice(len(samples), 50_000, replace=False)
        samples, at = samples[chosen], at[chosen]
    density = _densities(fitted, samples)
    prior = np.exp(np.asarray(fitted.log_weights, np.float64))
    log_weights = np.log(np.tile(prior, (CLASSES, 1)))
    for _ in range(STEPS):
        labels = np.argmax(density + log_weights[at], axis=1)
        counts = np.zeros(log_weights.shape)
        np.add.at(counts, (at, labels), 1)
        total = counts.sum(axis=1, keepdims=True) + PRIOR
        log_weights = np.log((counts + PRIOR * prior) / total)
    return log_weights


def _score(
    fitted: GaussianMixture,
    log_weights: np.ndarray,
    maps: np.ndarray,
    classes: np.ndarray,
) -> np.ndarray:
    """Returns the log-maps of images under weights by class."""
    found = []
    for value, at in zip(maps, classes, strict=True):
        density = _densities(fitted, value.reshape(-1, value.shape[-1]))
        terms = density + log_weights[at.ravel()]
        top = terms.max(axis=1)
        total = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
        found.append(total.reshape(at.shape).astype(np.float32))
    return np.stack(found)


def _densities(fitted: GaussianMixture, samples: np.ndarray) -> np.ndarray:
    """Returns ``log N_k(u)`` of every sample and component."""
    d = samples.shape[1]
    fixed = np.asarray(fitted.log_dets) + d * math.log(2 * math.pi)
    found = []
    for first in range(0, len(samples), CHUNK):
        part = samples[first : first + CHUNK]
        size = CHUNK if len(samples) > CHUNK else len(samples)
        padded = np.pad(part, ((0, size - len(part)), (0, 0)))
        found.append(np.asarray(_distances(fitted, padded))[: len(part)])
    return -0.5 * (np.concatenate(found) + fixed[None])


_distances = jax.jit(assign.distances)


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and way to weigh.

    Args:
      records: The rows of all categories and seeds.
    """
    out = [["category", "weights", "image AUROC", "pixel AUROC", "AU-PRO", "seeds"]]
    for category in dict.fromkeys(record["category"] for record in records):
        for method in METHODS:
            own = [
                r
                for r in records
                if r["category"] == category and r["method"] == method
            ]
            cells = [
                rows.cell(record[name] for record in own)
                for name in ("image_auroc", "pixel_auroc", "aupro")
            ]
            name = "local" if method == "glad" else method.removesuffix(" weights")
            out.append([category, name, *cells, str(len(own))])
    return out


if __name__ == "__main__":
    main()
