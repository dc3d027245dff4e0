"""The numbers of the paper's tables, to be printed beside ours.

The numbers are package data. AUROCs are handed out in [0, 1], as everywhere in this
package; what the paper does not print, or prints illegibly, is ``None``.

Notation: methods are named as the modules of `gladjax.baselines`, and ``glad``.

Differs from the reference in:

1. Hazelnut and metal nut of GLAD on ``wide_resnet50_2`` are ``None``: one of the two
   numbers is lost in the copy at hand.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD: A Global-to-Local Anomaly Detector".
WACV 2023, Tables 1 to 6.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gladjax import files

GROUPS = ("textures", "objects", "all")
"""Names that stand for a mean over categories where a category may stand."""


class AblationRow(NamedTuple):
    """A row of Table 1."""

    backbone: str
    mixture: str
    local_weights: bool
    layers: tuple[int, ...]
    oas: bool
    memory_gb: float
    seconds_per_image: float
    auroc: float


class Cost(NamedTuple):
    """A row of Table 5, on an Intel Core i7-10700K, alignment not included."""

    memory_gb: float
    seconds_per_image: float


def glad_auroc(category: str, *, backbone: str = "wide_resnet50_2") -> float | None:
    """Returns the paper's image AUROC of GLAD (Table 2).

    Args:
      category: A category of MVTec AD, or one of `GROUPS` for a mean.
      backbone: ``"wide_resnet50_2"`` or ``"resnet18"``.

    Returns:
      The AUROC in [0, 1]; ``None`` for a category that is not in the paper.

    Raises:
      ValueError: If the paper does not use the backbone.

    Example:
      >>> glad_auroc("transistor")
      0.996
    """
    return image_auroc("glad", category, backbone=backbone)


def image_auroc(
    method: str, category: str, *, backbone: str | None = None
) -> float | None:
    """Returns an image AUROC (Table 2).

    Args:
      method: ``glad``, ``mahaad``, ``padim``, ``cflow``, ``csflow`` or ``draem``.
      category: A category of MVTec AD, or one of `GROUPS` for a mean.
      backbone: Where the paper has the method on several: which one. By default the
        last in the paper's order, which is the largest.

    Returns:
      The AUROC in [0, 1]; ``None`` for a category that is not in the paper.

    Raises:
      ValueError: If the method is unknown, or not on this backbone.
    """
    rows = _choose(_tables()["image_auroc"], method, "method")
    return _cell(_choose(rows, backbone or list(rows)[-1], "backbone"), category)


def pixel_auroc(method: str, category: str) -> float | None:
    """Returns a pixel AUROC (Table 6).

    Args:
      method: ``glad``, ``padim``, ``cflow`` or ``draem``.
      category: A category of MVTec AD, or one of `GROUPS` for a mean.

    Returns:
      The AUROC in [0, 1]; ``None`` for a category that is not in the paper.

    Raises:
      ValueError: If the method is unknown.
    """
    return _cell(_choose(_tables()["pixel_auroc"], method, "method"), category)


def ablation() -> tuple[AblationRow, ...]:
    """Returns the rows of Table 1."""
    return tuple(
        AblationRow._make((*row[:3], tuple(row[3]), *row[4:7], _fraction(row[7])))
        for row in _tables()["ablation"]
    )


def dagm_auroc(method: str) -> float:
    """Returns the image AUROC on DAGM (Table 3).

    Args:
      method: ``glad``, ``padim`` or ``draem``.

    Raises:
      ValueError: If the method is unknown.
    """
    return _fraction(_choose(_tables()["dagm"], method, "method"))


def randomised_auroc(method: str, version: Literal["normal", "random"]) -> float:
    """Returns the mean image AUROC on the original or the randomised MVTec (Table 4).

    Args:
      method: ``glad``, ``mahaad``, ``padim``, ``cflow`` or ``draem``.
      version: ``"normal"``, or ``"random"`` for the mean over five random versions.

    Raises:
      ValueError: If the method is unknown.
    """
    return _fraction(_choose(_tables()["randomised"][version], method, "method"))


def randomised_categories() -> tuple[str, ...]:
    """Returns the categories of Table 4."""
    return tuple(_tables()["randomised"]["categories"])


def cost(method: str) -> Cost:
    """Returns memory and time of a method (Table 5).

    Args:
      method: ``glad``, ``padim``, ``cflow``, ``csflow`` or ``draem``.

    Raises:
      ValueError: If the method is unknown.
    """
    return Cost(*_choose(_tables()["cost"], method, "method"))


@functools.cache
def _tables() -> dict[str, Any]:
    """Reads the numbers once."""
    return files.read_json(pathlib.Path(__file__).with_name("paper_tables.json"))


def _choose(options: Mapping[str, Any], name: str, what: str) -> Any:  # noqa: ANN401
    """Returns a named option, or says which there are."""
    if name not in options:
        raise ValueError(f"no {what} {name!r} in this table; it has {list(options)}")
    return options[name]


def _cell(row: Mapping[str, Any], category: str) -> float | None:
    """Returns the number of a category or a mean, as a fraction."""
    names: Sequence[str] = _tables()["categories"]
    if category in GROUPS:
        return _fraction(row[category])
    if category not in names:
        return None
    percent = row["by_category"][names.index(category)]
    return None if percent is None else _fraction(percent)


def _fraction(percent: float) -> float:
    """Converts percent to a fraction without a trail of binary digits."""
    return round(percent / 100, 4)
