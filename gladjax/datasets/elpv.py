"""ELPV: electroluminescence images of solar cells, from the installed package.

2,624 cells of 300 x 300 grey pixels, of monocrystalline and polycrystalline modules,
each with the probability that it is defective: 0, 1/3, 2/3 or 1. The data come with the
Python package ``elpv-dataset`` (extra ``demo``), so nothing is downloaded at run time.
There is no official split; ours takes the certain cells only.

Notation: none.

Differs from the reference in:

1. The reference grades single cells; here the cells of probability 0 are normal, those
   of probability 1 anomalous, and the uncertain ones are left out.

Reference: Deitsch et al. "Automatic classification of defective photovoltaic module
cells in electroluminescence images". Solar Energy 185, 2019. Licence of the images:
CC BY-NC-SA 4.0, not for commercial use.
"""

import importlib.util
import pathlib

from gladjax import files
from gladjax.datasets.base import (
    GOOD,
    Dataset,
    DatasetError,
    Record,
    StrPath,
    build,
    take,
)

MAX_LABEL_BYTES = 2**24


def elpv(
    *,
    category: str = "mono",
    root: StrPath | None = None,
    num_train: int = 300,
    num_test: int = 200,
    skip_bad: bool = False,
) -> Dataset:
    """Lists the cells of one type of module.

    The cells of probability 0 are sorted by path and permuted by
    ``numpy.random.RandomState(0)``; the first are for training, the next for testing.
    All cells of probability 1 are anomalous test images: 313 mono, 402 poly.

    Args:
      category: ``"mono"`` or ``"poly"``.
      root: The folder of ``labels.csv``; that of the installed package by default.
      num_train: Number of normal cells to train on.
      num_test: Number of normal cells to test on, or all the others if they are fewer.
      skip_bad: Whether missing images are left out and counted.

    Raises:
      DatasetError: If the package is not installed, the table is damaged, or there are
        too few normal cells.
      ValueError: If an option is out of its range.
    """
    if category not in ("mono", "poly"):
        raise DatasetError(f"no category {category!r}; there are: mono, poly")
    if num_train < 1 or num_test < 0:
        raise ValueError("num_train must be at least 1 and num_test at least 0")
    folder = pathlib.Path(root) if root is not None else installed()
    rows = [(path, p) for path, p, kind in _labels(folder) if kind == category]
    normal = take([path for path, p in rows if p == 0])
    if len(normal) < num_train:
        raise DatasetError(f"{folder}: {len(normal)} normal cells, not {num_train}")
    train, test = normal[:num_train], normal[num_train : num_train + num_test]
    records = [
        *(Record(path, 0, GOOD, None, "train") for path in train),
        *(Record(path, 0, GOOD, None, "test") for path in test),
        *(Record(path, 1, "defective", None, "test") for path, p in rows if p == 1),
    ]
    return build("elpv", category, records, skip_bad=skip_bad)


def installed() -> pathlib.Path:
    """Returns the folder of the data in the package ``elpv-dataset``, not imported.

    Raises:
      DatasetError: If the package is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    for place in (spec and spec.submodule_search_locations) or ():
        folder = pathlib.Path(place) / "data"
        if (folder / "labels.csv").is_file():
            return folder
    raise DatasetError(
        "the solar cell images are not installed; "
        "run: pip install elpv-dataset (or gladjax[demo])"
    )


def _labels(folder: pathlib.Path) -> list[tuple[pathlib.Path, float, str]]:
    """Reads ``labels.csv``: path, probability and type, separated by white space."""
    table = folder / "labels.csv"
    try:
        if table.stat().st_size > MAX_LABEL_BYTES:
            raise ValueError(f"larger than {MAX_LABEL_BYTES} bytes")
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{table}: not readable ({error})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, probability, kind = line.split()
            value = float(probability)
            if not 0 <= value <= 1:
                raise ValueError(f"{probability} is no probability")
            rows.append((files.inside(folder, name), value, kind))
        except ValueError as error:
            raise DatasetError(f"{table}, line {number}: {error}") from error
    return rows
