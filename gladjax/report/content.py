"""What a fit and an evaluation show.

A fit shows what was learnt: components, where they are at home, reference and mask,
calibration. An evaluation shows in addition how well it separates the test images, and
the images that deserve a look: the worst mistakes and those nearest to the threshold.

Notation: as in `gladjax.detector`.

Differs from the reference in: there is none.

Reference: Artola et al., "GLAD", WACV 2023, Figures 2 to 5.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from gladjax import io, metrics, plots, weights
from gladjax.detector import Detector
from gladjax.report import charts, page

NUM_SHOWN = 8
SIDE = 256  # Of the pictures on a page.


class Case(NamedTuple):
    """One test image.

    Attributes:
      name: What to call it.
      label: 0 normal, 1 anomalous.
      score: Its score.
      heat_map: Higher is more anomalous.
      read: Returns the image, RGB, 0 to 255.
    """

    name: str
    label: int
    score: float
    heat_map: Float[np.ndarray, "_h _w"]
    read: Callable[[], Num[np.ndarray, "_h2 _w2 3"]]


def fitted(path: page.StrPath, detector: Detector) -> str:
    """Returns the page of a fit.

    Args:
      path: The model file.
      detector: The detector in it.
    """
    description = io.describe(path)
    return page.document(
        f"GLAD model {path}",
        [
            ("Model", _facts(description)),
            ("Decision", _calibration(detector, description.threshold)),
            *_learnt(detector),
            ("Times", _times(description.notes.get("seconds", {}))),
        ],
    )


def evaluation(
    title: str,
    detector: Detector,
    cases: Sequence[Case],
    *,
    threshold: float | None = None,
    measures: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Returns the page of an evaluation.

    Args:
      title: The page's title.
      detector: The detector.
      cases: Every test image.
      threshold: Score above which an image is anomalous.
      measures: Numbers for the table at the top.
      seconds: Time per image and stage.
    """
    labels = np.array([case.label for case in cases])
    scores = np.array([case.score for case in cases], np.float64)
    rows: list[tuple[str, Any]] = [
        ("normal images", int(np.sum(labels == 0))),
        ("anomalous images", int(np.sum(labels == 1))),
        *((name.replace("_", " "), _shown(v)) for name, v in (measures or {}).items()),
        *_mistakes(labels, scores, threshold),
    ]
    groups = {"normal": scores[labels == 0], "anomalous": scores[labels == 1]}
    figures = [charts.histogram(groups, threshold=threshold)]
    if len(np.unique(labels)) == 2 and not np.isnan(scores).any():
        false, true = metrics.roc_curve(labels, scores)
        figures.append(charts.roc(false, true, metrics.auroc(labels, scores)))
    sections = [("Result", page.table(rows)), ("Scores", page.row(figures))]
    sections += _cases(cases, labels, scores, threshold)
    sections += _learnt(detector)
    sections.append(("Time per image", _times(seconds or {})))
    return page.document(title, sections)


def _facts(description: io.Description) -> str:
    backbone = description.backbone
    rows = [
        ("backbone", backbone["name"]),
        ("weights", f"{backbone['sha256'][:16]} ({backbone['licence']})"),
        ("image size", " x ".join(map(str, backbone["image_size"]))),
        *description.settings.items(),
        *((k, v) for k, v in description.notes.items() if not isinstance(v, dict)),
        *((f"version of {k}", v) for k, v in description.libraries.items()),
    ]
    return page.table([(str(name).replace("_", " "), value) for name, value in rows])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    return "-" if value is None else str(value)


def _calibration(detector: Detector, threshold: float | None) -> str:
    if detector.calibration is None:
        return "<p>There are no calibration images: scores, but no decisions.</p>"
    scores = np.asarray(detector.calibration, np.float64)
    chart = charts.histogram({"normal, not learnt from": scores}, threshold=threshold)
    if threshold is None:
        return f"{chart}<p>Too few images for the rate asked for: no decisions.</p>"
    return chart


def _mistakes(
    labels: np.ndarray, scores: np.ndarray, threshold: float | None
) -> list[tuple[str, str]]:
    if threshold is None:
        return [("threshold", "none")]
    called = scores > threshold
    rows = [("threshold", f"{threshold:.4f}")]
    for name, label in (("called anomalous, normal", 0), ("found, anomalous", 1)):
        part = called[labels == label]
        if part.size:
            share = f"{part.sum()} of {part.size} ({part.mean():.1%})"
            rows.append((name, share))
    return rows


def _cases(
    cases: Sequence[Case],
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float | None,
) -> list[tuple[str, str]]:
    """Returns the pictures that deserve a look."""
    if not len(cases):
        return []
    normal, anomalous = (np.flatnonzero(labels == label) for label in (0, 1))
    middle = float(np.median(scores)) if threshold is None else threshold
    choices = {
        "Normal images of the highest scores": normal[np.argsort(-scores[normal])],
        "Anomalous images of the lowest scores": anomalous[
            np.argsort(scores[anomalous])
        ],
        "Images nearest to the threshold": np.argsort(np.abs(scores - middle)),
        "Anomalous images of the highest scores": anomalous[
            np.argsort(-scores[anomalous])
        ],
    }
    limits = _limits(cases, normal, threshold)
    sections = []
    for heading, order in choices.items():
        parts = [_case(cases[i], limits) for i in order[:NUM_SHOWN].tolist()]
        if parts:
            sections.append((heading, page.row(parts)))
    return sections


def _limits(
    cases: Sequence[Case], normal: np.ndarray, threshold: float | None
) -> plots.Limits:
    """Returns limits for all pictures: the calm of normal images, and beyond."""
    some = (normal if normal.size else np.arange(len(cases)))[:50].tolist()
    calm = np.concatenate([cases[i].heat_map.ravel() for i in some])
    low, high = plots.limits(calm[None, :], threshold=threshold)
    largest = max(float(case.heat_map.max()) for case in cases)
    return low, max(high, low + 0.6 * (largest - low))


def _case(case: Case, limits: plots.Limits) -> str:
    image = plots.reduced(np.asarray(case.read()), SIDE)
    picture = plots.scored_picture(image, case.heat_map, case.score, limits=limits)
    kind = "anomalous" if case.label else "normal"
    return page.figure(picture, f"{case.name} ({kind})")


def _learnt(detector: Detector) -> list[tuple[str, str]]:
    """Returns components, maps, reference and mask."""
    rows: list[tuple[object, ...]] = [
        ("layer", "features", "map", "components", "active per position")
    ]
    figures: list[str] = []
    shares: dict[str, np.ndarray] = {}
    for name, layer in detector.layers.items():
        local = layer.local_weights
        active = np.asarray(weights.active(local))
        k, d = layer.mixture.means.shape
        grid = " x ".join(map(str, local.shape))
        logs = np.asarray(layer.mixture.log_weights, np.float64)
        shares[name] = np.exp(logs[np.isfinite(logs)])
        kept = len(shares[name])
        rows.append(
            (name, d, grid, kept, f"{active.mean():.1f} ({active.mean() / kept:.1%})")
        )
        caption = f"{name}: active components, {active.min()} to {active.max()}"
        figures.append(page.figure(plots.activity_map(active, side=SIDE), caption))
        component, share = _most_local(layer.local_weights, k)
        caption = f"{name}: local weight of component {component}"
        figures.append(page.figure(plots.weight_map(share, side=SIDE), caption))
    frame = _frame(detector)
    return [
        ("Components", page.table(rows, head=True) + charts.decay(shares)),
        ("Where the components are at home", page.row(figures)),
        ("Reference and mask", frame),
    ]


def _most_local(
    local: weights.LocalWeights, num_components: int
) -> tuple[int, np.ndarray]:
    """Returns the component of the largest weight anywhere, and its map."""
    components = np.asarray(local.components)
    values = np.exp(np.asarray(local.log_weights, np.float64))
    mass = np.bincount(components, values, num_components)
    squares = np.bincount(components, values**2, num_components)
    component = int(np.argmax(squares / np.maximum(mass, 1e-12) * (mass >= 2)))
    at = np.repeat(np.arange(len(local.starts) - 1), np.diff(local.starts))
    out = np.zeros(local.shape[0] * local.shape[1])
    own = components == component
    out[at[own]] = values[own]
    return component, out.reshape(local.shape)


def _frame(detector: Detector) -> str:
    mask = np.asarray(detector.mask)
    share = f"{mask.mean():.1%} of the frame counts"
    if not mask.all():
        share += f", {1 - mask.mean():.1%} is not looked at"
    if detector.reference is None:
        picture = plots.colours(mask.astype(np.float64), limits=(0.0, 1.0))
        return page.figure(picture, f"not aligned; {share}", width=SIDE)
    reference = np.asarray(detector.reference)
    caption = f"reference of the alignment ({detector.settings.motion}); {share}"
    return page.figure(plots.outline(reference, mask), caption, width=SIDE)


def _times(seconds: Mapping[str, Any]) -> str:
    known = {str(k): float(v) for k, v in seconds.items() if isinstance(v, int | float)}
    return charts.bars(known, "s") if known else "<p>not measured</p>"
