"""Data sets listed in a table: any CSV file, and VisA.

A CSV file names one image a line and, if it likes, what is known of it:

    image,label,kind,mask,split
    good/000.png,0,,,train
    bad/000.png,1,scratch,masks/000.png,test

Only ``image`` is needed. ``label`` is 0 or 1 (or a word such as ``OK`` and ``NG``, see
`gladjax.images.NORMAL`), by default 0; ``kind`` is the type of defect; ``split`` is
``train`` or ``test``, by default ``train`` for normal images and ``test`` for anomalous
ones. Paths are relative to the file. Commas, semicolons or tabs separate.

Notation: none.

Differs from the reference in: there is none.

Reference: RFC 4180. Zou et al. "SPot-the-Difference Self-supervised Pre-training for
Anomaly Detection and Segmentation". ECCV 2022 (VisA).
"""

import csv
import io
import pathlib
from collections.abc import Iterator

from gladjax import files, images
from gladjax.datasets.base import GOOD, Dataset, DatasetError, Record, StrPath, build

MAX_TABLE_BYTES = 2**26
_LABELS = {
    **{"": 0, "0": 0, "1": 1, "fail": 1, "failed": 1},
    **dict.fromkeys(images.NORMAL, 0),
    **dict.fromkeys(images.ANOMALOUS, 1),
}


def listed(
    path: StrPath,
    *,
    category: str | None = None,
    skip_bad: bool = False,
    train: bool = True,
) -> Dataset:
    """Lists the images of a CSV file.

    Args:
      path: The CSV file, UTF-8, with a header line.
      category: A name for the results; the file's stem by default.
      skip_bad: Whether missing images are left out and counted.
      train: Whether there must be training images; without, all images of a table that
        has no column ``split`` are test images.

    Raises:
      DatasetError: If the file is unreadable, a column or value is not as described, an
        image is missing, or there are no normal training images though there must be.
        It names the line.
    """
    table = pathlib.Path(path)
    records, notes = [], []
    for line, row in _rows(table, ("image",)):
        if not train and "split" not in row:
            row["split"] = "test"
            notes = [f"{table.name}: no column split, so all images are for testing"]
        try:
            records.append(_record(table.parent, row))
        except ValueError as error:
            raise DatasetError(f"{table}, line {line}: {error}") from error
    name = category or table.stem
    return build("csv", name, records, skip_bad=skip_bad, notes=notes, train=train)


def visa(root: StrPath, category: str, *, skip_bad: bool = False) -> Dataset:
    """Lists one category of VisA by its table of one-class splits.

    Args:
      root: The folder that holds ``split_csv/1cls.csv`` and the categories, such as
        ``candle``.
      category: The name of the category.
      skip_bad: Whether missing images are left out and counted.

    Raises:
      DatasetError: If the table is unreadable, the category is unknown, or an image is
        missing.
    """
    table = pathlib.Path(root) / "split_csv" / "1cls.csv"
    records, known = [], set()
    for line, row in _rows(table, ("object", "split", "label", "image", "mask")):
        known.add(row["object"])
        if row["object"] != category:
            continue
        try:
            files.inside(root, row["image"])
            records.append(_record(pathlib.Path(root), row))
        except ValueError as error:
            raise DatasetError(f"{table}, line {line}: {error}") from error
    if category not in known:
        there = ", ".join(sorted(known)) or "none"
        raise DatasetError(f"{table}: no category {category!r}; there are: {there}")
    return build("visa", category, records, skip_bad=skip_bad)


def _record(base: pathlib.Path, row: dict[str, str]) -> Record:
    """Makes a record of a row, or raises a ValueError that says what is wrong."""
    label = _LABELS.get(row.get("label", "").lower())
    if label is None:
        raise ValueError(f"label {row['label']!r} is neither 0 nor 1, nor OK nor NG")
    if not row["image"] or "\0" in row["image"] + row.get("mask", ""):
        raise ValueError("the path of the image or mask is empty or not a path")
    split = row.get("split") or ("test" if label else "train")
    kind = row.get("kind") or ("defective" if label else GOOD)
    mask = base / row["mask"] if label and row.get("mask") else None
    if split == "train":
        return Record(base / row["image"], label, kind, mask, "train")
    if split == "test":
        return Record(base / row["image"], label, kind, mask, "test")
    raise ValueError(f"split {split!r} is neither train nor test")


def _rows(
    table: pathlib.Path, needed: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number and the fields of each line, stripped of white space."""
    try:
        if table.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError(f"larger than {MAX_TABLE_BYTES} bytes")
        text = table.read_bytes().decode("utf-8-sig")
        first = text.partition("\n")[0]
        mark = max(",;\t", key=first.count)  # The first of equals.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in needed if name not in header]
        if missing or len(set(header)) < len(header):
            raise ValueError(f"the header must name {', '.join(needed)}, each once")
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                where = f"line {reader.line_num}"
                raise ValueError(f"{where}: {len(fields)} fields, not {len(header)}")
            values = (field.strip() for field in fields)
            yield reader.line_num, dict(zip(header, values, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{table}: not a readable table ({error})") from error
