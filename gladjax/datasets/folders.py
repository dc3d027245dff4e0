"""Any folder of images: what a user has before there is a data set.

All images are normal training ones, but for test images, which lie in folders that are
kinds: in ``test/good`` and ``test/<kind>``, or, without ``train`` and ``test``, in
folders such as ``normal`` and ``abnormal`` themselves. Which kinds are normal is known
by their names (`gladjax.images.NORMAL`), or said. Masks, if there are any, lie in a
folder such as ``ground_truth`` or ``mask``, by kind or all together, as
``<stem>_mask.png`` or ``<stem>.png``, in any format.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import collections
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gladjax import images
from gladjax.datasets.base import (
    GOOD,
    Dataset,
    DatasetError,
    Record,
    StrPath,
    build,
    list_folders,
    list_images,
)
from gladjax.datasets.truth import find_mask

_RESERVED = ("test", "ground_truth")


class Names(NamedTuple):
    """What parts of a folder are called, where their names do not tell.

    Attributes:
      normal: Kinds that are normal; those of `gladjax.images.NORMAL` if empty.
      masks: The folder of masks; one of `gladjax.images.MASKS` if None.
    """

    normal: tuple[str, ...] = ()
    masks: pathlib.Path | None = None


_TOLD = Names()


def folder(
    root: StrPath,
    *,
    category: str | None = None,
    skip_bad: bool = False,
    train: bool = True,
    names: Names = _TOLD,
) -> Dataset:
    """Lists the images of a folder.

    Training images are those of ``train`` if it exists, else all images in the folder
    and the folders in it, but for what `gladjax.images.below` leaves out: masks, and
    everything beside a folder ``good``. Symbolic links to folders are not followed.

    Args:
      root: The folder.
      category: A name for the results, the folder's by default; of a folder that holds
        several data sets, which one.
      skip_bad: Whether bad records are left out and counted.
      train: Whether there must be training images; without, only those in ``train``
        are, and all others are test images.
      names: What parts are called.

    Returns:
      The images; an anomalous one without a mask has ``None`` for it. Its notes say
      what was understood where names leave a choice, and what was left out.

    Raises:
      DatasetError: If there is no such folder, or no image to train on or to test, or
        the folder holds several data sets, or a kind that is said to be normal is not
        there.
    """
    base = _one(pathlib.Path(root), category, train)
    notes: list[str] = []
    kinds, direct = _kinds(base, names)
    records: list[Record] = []
    if (base / "train").is_dir() or (train and not (kinds and direct)):
        records.extend(_train(base, train, notes))
    split = "train" if train and not records else "test"
    records.extend(_test(base, kinds, names, notes))
    if split == "train":  # Normal images beside anomalous ones: learn from those.
        records = [r if r.label else r._replace(split="train") for r in records]
    if not train and not any(record.split == "test" for record in records):
        raise DatasetError(
            f"{base}: no test images; put normal ones in test/good, anomalous ones in "
            "test/KIND"
        )
    name = category or base.resolve().name or "folder"
    return build("folder", name, records, skip_bad=skip_bad, notes=notes, train=train)


def _one(base: pathlib.Path, category: str | None, train: bool) -> pathlib.Path:
    """Returns the folder of one data set: the folder itself, or one in it."""
    if not base.is_dir():
        raise DatasetError(f"{base}: no such folder; set it to where the images are")
    if (base / "train").is_dir() or (base / "test").is_dir():
        return base
    parts = ("train",) if train and category is None else ("train", "test")
    many = [f.name for f in list_folders(base) if any((f / p).is_dir() for p in parts)]
    if category in many:
        return base / category
    if any((base / name / "train").is_dir() or not train for name in many):
        there = ", ".join(many)
        raise DatasetError(f"{base}: it holds several data sets, name one: {there}")
    return base


def _train(base: pathlib.Path, needed: bool, notes: list[str]) -> list[Record]:
    """Returns the training images, all normal."""
    start = base / "train" if (base / "train").is_dir() else base
    found = images.below(
        start, learn=True, leave_out=_RESERVED if start == base else ()
    )
    notes.extend(f"left out: {note}" for note in found.notes)
    if needed and not found.paths:
        raise DatasetError(f"{start}: no images here; put normal ones in")
    return [Record(path, 0, GOOD, None, "train") for path in found.paths]


def _kinds(base: pathlib.Path, names: Names) -> tuple[list[pathlib.Path], bool]:
    """Returns the folders that are kinds, and whether they lie in the folder itself."""
    if (base / "test").is_dir():
        found = list_folders(base / "test")
    else:
        found = [f for f in list_folders(base) if f.name != "train"]
        known = (*images.NORMAL, *images.ANOMALOUS)
        if not any(f.name.lower() in known or f.name in names.normal for f in found):
            return [], True
    masks = None if names.masks is None else names.masks.resolve()
    kinds = [f for f in found if images.is_kind(f.name) and f.resolve() != masks]
    return kinds, not (base / "test").is_dir()


def _test(
    base: pathlib.Path,
    kinds: Sequence[pathlib.Path],
    names: Names,
    notes: list[str],
) -> Iterator[Record]:
    """Yields the test images of all kinds, with their masks."""
    if not kinds:
        return
    normal = _normal(base, [kind.name for kind in kinds], names, notes)
    loose = list_images(kinds[0].parent)
    if loose:
        notes.append(f"left out, of no kind: {images.named(loose)}")
    bad: list[tuple[pathlib.Path, pathlib.Path]] = []
    for kind in kinds:
        found = images.below(kind, beside=True)
        notes.extend(f"left out: {note}" for note in found.notes)
        for path in found.paths:
            if kind.name in normal:
                yield Record(path, 0, GOOD, None, "test")
            else:
                bad.append((kind, path))
    places = [names.masks] if names.masks is not None else _mask_folders(base, kinds)
    counts = collections.Counter(path.stem for _, path in bad)
    for kind, path in bad:
        mask = _mask(kind, path, places, alone=counts[path.stem] == 1)
        yield Record(path, 1, kind.name, mask, "test")


def _normal(
    base: pathlib.Path, kinds: Sequence[str], names: Names, notes: list[str]
) -> set[str]:
    """Returns which kinds are normal, and notes them where there is a choice."""
    unknown = [name for name in names.normal if name not in kinds]
    if unknown:
        there = ", ".join(kinds)
        raise DatasetError(f"{base}: no kind {unknown[0]!r}; there are: {there}")
    normal = set(names.normal) or {k for k in kinds if k.lower() in images.NORMAL}
    if normal != {GOOD}:
        words = [f"{k} ({'normal' if k in normal else 'anomalous'})" for k in kinds]
        notes.append(f"kinds: {', '.join(words)}; --normal KIND says which are normal")
    return normal


def _mask_folders(
    base: pathlib.Path, kinds: Sequence[pathlib.Path]
) -> list[pathlib.Path]:
    """Returns the folders of masks, in the data set's folder and beside the kinds."""
    inside = {*list_folders(base), *list_folders(kinds[0].parent)}
    return sorted(f for f in inside if f.name.lower() in images.MASKS)


def _mask(
    kind: pathlib.Path,
    path: pathlib.Path,
    places: Sequence[pathlib.Path],
    *,
    alone: bool,
) -> pathlib.Path | None:
    """Returns the mask of an image: by kind, beside it, or, by a stem of its own."""
    stems = (f"{path.stem}_mask", path.stem)
    below = path.parent.relative_to(kind)
    for place in places:
        choices = [place / kind.name / below, place / kind.name]
        if alone:
            choices += [place / below, place]
        for choice in dict.fromkeys(choices):
            mask = find_mask(choice, *stems)
            if mask is not None and (mask.is_file() or choice != place):
                return mask
    return find_mask(path.parent, *(path.stem + e for e in images.MASK_ENDINGS))
