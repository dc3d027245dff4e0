"""Data sets by name, for the command line and the experiments."""

from collections.abc import Callable, Mapping
from typing import Any

from gladjax.datasets.base import Dataset, DatasetError, StrPath
from gladjax.datasets.elpv import elpv
from gladjax.datasets.folders import folder
from gladjax.datasets.layouts import btad, mpdd, mvtec_ad2, mvtec_loco
from gladjax.datasets.mvtec import mvtec
from gladjax.datasets.surfaces import dagm, kolektor_sdd, kolektor_sdd2, magnetic_tile
from gladjax.datasets.tables import listed, visa
from gladjax.datasets.truth import require

LOADERS: Mapping[str, Callable[..., Dataset]] = {
    "mvtec": mvtec,
    "mvtec_ad2": mvtec_ad2,
    "mvtec_loco": mvtec_loco,
    "visa": visa,
    "btad": btad,
    "mpdd": mpdd,
    "dagm": dagm,
    "kolektor_sdd": kolektor_sdd,
    "kolektor_sdd2": kolektor_sdd2,
    "magnetic_tile": magnetic_tile,
    "elpv": elpv,
    "folder": folder,
    "csv": listed,
}
"""What lists a data set, by its name."""

_MANY = ("mvtec", "mvtec_ad2", "mvtec_loco", "visa", "btad", "mpdd", "dagm")


def load(
    name: str,
    *,
    root: StrPath | None = None,
    category: str | None = None,
    skip_bad: bool = False,
    train: bool = True,
    require_masks: bool = False,
) -> Dataset:
    """Lists one category of a data set by name.

    Args:
      name: A key of `LOADERS`.
      root: The folder of the data set; for ``csv`` the file; for ``elpv`` none means
        the installed package.
      category: The category, where the data set has several; for ``elpv`` ``"mono"``
        (the default) or ``"poly"``; otherwise a name for the results.
      skip_bad: Whether bad records are left out and counted.
      train: Whether ``mvtec``, ``folder`` and ``csv`` must have training images; all
        others do.
      require_masks: Whether every anomalous test image must have its mask.

    Raises:
      DatasetError: If the name is unknown, the root or category is needed and not
        given, the data are not as their layout says, or a mask that must be there is
        missing or all black.
    """
    found = _load(name, root, category, skip_bad, train)
    if require_masks:
        require(found)
    return found


def _load(
    name: str, root: StrPath | None, category: str | None, skip_bad: bool, train: bool
) -> Dataset:
    """Lists a data set as `load` does; masks may be missing."""
    if name not in LOADERS:
        raise DatasetError(f"no data set {name!r}; there are: {', '.join(LOADERS)}")
    if name == "elpv":
        return elpv(category=category or "mono", root=root, skip_bad=skip_bad)
    if root is None:
        raise DatasetError(f"{name}: say where the data are")
    if category is None and name in _MANY:
        raise DatasetError(f"{name}: say which category of {root}")
    chosen: dict[str, Any] = {} if category is None else {"category": category}
    if name in ("mvtec", "folder", "csv"):
        chosen["train"] = train
    return LOADERS[name](root, skip_bad=skip_bad, **chosen)
