"""Fits and evaluates the other systems of the paper on features at hand.

Notation: none.

Differs from the reference in: what each module of `gladjax.baselines` names.

Reference: those of `gladjax.baselines`.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gladjax import backbone as backbones
from gladjax import datasets, neighbourhoods
from gladjax.baselines import cflow, csflow, draem, mahaad, padim, patchcore, spade
from gladjax.datasets import Dataset
from gladjax.datasets import Record as Listed
from gladjax.experiments import evaluation
from gladjax.experiments.evaluation import METRIC_SIZE, Evaluation
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Read, Source

METHODS = ("mahaad", "padim", "patchcore", "spade", "cflow", "csflow", "draem")
OTHERS = {"patchcore, 10 %": ("patchcore", {"coreset": 0.1})}
"""Further rows: the method, and its options whatever the command line says."""
TIMED = 8  # Test images that are timed, one at a time.


def choices(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """Returns the options of a method that its record names."""
    if method in OTHERS:
        return OTHERS[method][1]
    if method == "padim":
        return {"dims": options.padim_dims}
    if method == "patchcore":
        return {"coreset": options.coreset}
    if method in ("cflow", "csflow", "draem"):
        return {"num_steps": options.train_steps}
    return {}


def fitter(method: str, chosen: dict[str, Any], names: Sequence[str]) -> Callable:
    """Returns ``fit(key, features)`` of a method.

    Args:
      method: A module of `gladjax.baselines`.
      chosen: What `choices` returned.
      names: The layers.
    """
    size: dict[str, Any] = {"image_size": METRIC_SIZE}

    def fit(key: jax.Array, data: Any) -> Any:  # noqa: ANN401 - a model, any of them
        if method == "mahaad":
            return mahaad.fit(key, data, **size)
        if method == "padim":
            return padim.fit(key, data, **chosen, **size)
        if method == "patchcore":
            return patchcore.fit(key, data, layers=names[-2:], **chosen, **size)
        if method == "spade":
            grid = names[min(1, len(names) - 1)]
            return spade.fit(key, data, grid=grid, **size)
        if method == "cflow":
            return cflow.fit(key, data, settings=cflow.Training(**chosen), **size)
        if method == "csflow":
            return csflow.fit(key, data, settings=csflow.Training(**chosen), **size)
        return draem.fit(key, data, settings=draem.Training(**chosen))

    return fit


SCORES: dict[str, Callable] = {
    "mahaad": mahaad.score,
    "padim": padim.score,
    "patchcore": patchcore.score,
    "spade": spade.score,
    "cflow": cflow.score,
    "csflow": csflow.score,
    "draem": draem.score,
}


def run(
    source: Source,
    dataset: Dataset,
    row: tuple[str, int],
    *,
    options: Mapping[str, Any],
    masks: np.ndarray | None = None,
) -> Record:
    """Fits and evaluates a method.

    Args:
      source: The features.
      dataset: Whose they are.
      row: Method and seed.
      options: What `choices` returned.
      masks: Anomalous pixels, if they are not those of the data set.

    Returns:
      What its record says, beside what identifies it.
    """
    name, seed = row
    method = OTHERS[name][0] if name in OTHERS else name
    chosen = {key: value for key, value in options.items() if key != "version"}
    layers = neighbourhoods.plain(source.blank.backbone).layers
    train, test = (
        {name: maps[name] for name in layers} for maps in (source.train, source.test)
    )
    if method == "draem":
        net = source.blank.backbone
        read = datasets.reader(dataset)
        train, test = (_pictures(r, net, read) for r in (dataset.train, dataset.test))
    begun = time.perf_counter()
    fit = fitter(method, chosen, layers)
    model = jax.block_until_ready(fit(jax.random.key(seed), train))
    fit_seconds = time.perf_counter() - begun
    heats, scores = SCORES[method](model, test)
    result = Evaluation(
        scores=np.asarray(scores),
        labels=np.array([record.label for record in dataset.test]),
        heat_maps=np.asarray(heats),
        masks=evaluation.read_masks(dataset) if masks is None else masks,
        seconds={**source.seconds, "score": _seconds(SCORES[method], model, test)},
    )
    leaves = [leaf for leaf in jax.tree.leaves(model) if hasattr(leaf, "nbytes")]
    return {
        **evaluation.measures(result),
        "num_train": len(dataset.train),
        "num_test": len(result.scores),
        "num_components": None,
        "active_per_position": None,
        "model_bytes": sum(int(leaf.nbytes) for leaf in leaves),
        "fit_seconds": fit_seconds,
        "seconds_per_image": result.seconds,
    }


def _seconds(score: Callable, model: Any, test: Any) -> float:  # noqa: ANN401
    """Returns the median time of one image, without compilation."""
    times = []
    for number in range(TIMED + 1):
        one = jax.tree.map(lambda x, i=number: x[i % len(x)][None], test)
        begun = time.perf_counter()
        jax.block_until_ready(score(model, one))
        times.append(time.perf_counter() - begun)
    return float(np.median(times[1:]))


def _pictures(
    records: Sequence[Listed],
    net: backbones.Backbone,
    read: Read,
) -> np.ndarray:
    """Returns images at the backbone's size."""
    found = [read(record.image) for record in records]
    return np.stack(
        [
            np.asarray(backbones.resize(np.asarray(one), size=net.image_size))
            for one in found
        ]
    ).astype(np.float32)
