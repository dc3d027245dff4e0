"""Which files below a folder are photographs, and which are to learn from.

A folder that somebody hands over holds more than photographs: thumbnails and trash that
storage devices keep, links, masks, and, where it is a whole data set, the defects that
a model is tested on. What is left out by its name is told, never passed over in
silence, but for hidden files and folders.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gladjax import outputs
from gladjax.images.headers import StrPath
from gladjax.images.pixels import SUFFIXES

NORMAL = (
    *("good", "ok", "normal", "nominal", "pass", "passed"),
    *("defect_free", "defect-free", "no_defect", "non_defective", "non-defective"),
)
"""Names, in lower case, of folders whose images are normal."""

ANOMALOUS = (
    *("bad", "ng", "nok", "ko", "faulty", "abnormal", "anomalous", "anomaly"),
    *("anomalies", "defect", "defects", "defective", "not_good", "not_ok"),
)
"""Names of folders whose images are anomalous, whatever else there is."""

MASKS = ("ground_truth", "groundtruth", "gt", "mask", "masks")
"""Names of folders of masks."""

MASK_ENDINGS = ("_mask", "_gt", "_label")
"""What the name of a mask has after the stem of the image that it lies beside."""

_STORAGE = ("__macosx", "lost+found", "system volume information")
_NUM_NAMED = 3
_OWN = "pictures that gladjax wrote"


class Listing(NamedTuple):
    """Image files, and what was left out.

    Attributes:
      paths: The files, sorted.
      notes: What was left out and why, in words, folder by folder.
    """

    paths: list[pathlib.Path]
    notes: list[str]


def below(
    folder: StrPath,
    *,
    learn: bool = False,
    beside: bool = False,
    leave_out: tuple[str, ...] = (),
) -> Listing:
    """Returns all images below a folder.

    Hidden ones are left out in silence; folders that storage devices keep (``@eaDir``,
    ``#recycle``), links to folders, unreadable folders and pictures that this program
    wrote, such as heat maps, are noted.

    Args:
      folder: The folder.
      learn: Whether only normal images are wanted, no masks, nothing anomalous by its
        name, nothing beside a folder ``train``, and nothing beside ``good`` or a folder
        of another such name.
      beside: Whether masks that lie beside their images are left out, unnoted.
      leave_out: Names of folders directly in it to leave out as well, unnoted.
    """
    start = pathlib.Path(folder)
    found: list[pathlib.Path] = []
    notes: list[str] = []

    def unreadable(error: OSError) -> None:
        notes.append(f"{error.filename} ({error.strerror})")

    for here, folders, names in os.walk(start, onerror=unreadable):
        place, kept = pathlib.Path(here), []
        part = _part(folders) if learn else ""
        for name in sorted(folders):
            hidden = name.startswith(".") or (place == start and name in leave_out)
            reason = "" if hidden else _reason(name, part, learn)
            if not hidden and not reason and (place / name).is_symlink():
                reason = "a link; name it to follow it"
            if reason:
                notes.append(f"{place / name} ({reason})")
            elif not hidden:
                kept.append(name)
        folders[:] = kept
        every = [name for name in sorted(names) if is_image(name)]
        pictures = [name for name in every if not _own(place / name)]
        if len(pictures) < len(every):
            notes.append(f"{_images(len(every) - len(pictures))} in {place} ({_OWN})")
        if part and pictures:
            notes.append(f"{_images(len(pictures))} directly in {place} ({part})")
            continue
        masks = _masks(pictures) if learn or beside else set()
        if masks and learn:
            notes.append(f"{_images(len(masks))} in {place} (masks of others)")
        found.extend(place / name for name in pictures if name not in masks)
    return Listing(sorted(found), notes)


def _own(path: pathlib.Path) -> bool:
    """Whether a picture is one that this program wrote, such as a heat map."""
    return path.suffix.lower() == ".png" and outputs.written(path, outputs.PICTURE)


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def is_kind(name: str) -> bool:
    """Whether a folder may hold images of a kind, by its name: it is not of masks."""
    return not _reason(name, "", False) and name.lower() not in MASKS


def named(items: Sequence[object]) -> str:
    """Returns the first few of many items, and how many there are besides, in words.

    Args:
      items: Files, say.

    Example:
      >>> named(["a", "b", "c", "d"])
      'a, b, c and 1 more'
    """
    rest = len(items) - _NUM_NAMED
    text = ", ".join(str(item) for item in items[:_NUM_NAMED])
    return f"{text} and {rest} more" if rest > 0 else text


def is_image(name: str) -> bool:
    """Whether a file is an image by its name, and not hidden."""
    return pathlib.PurePath(name).suffix.lower() in SUFFIXES and name[0] != "."


def _reason(name: str, part: str, learn: bool) -> str:
    """Returns why a folder is left out; empty if it is not.

    Args:
      name: Its name.
      part: What other folders lie beside, from `_part`.
      learn: Whether only normal images are wanted.
    """
    name = name.lower()
    if name[0] in "@#$" or name in _STORAGE:
        return "kept by a storage device"
    if not learn:
        return ""
    if name in MASKS:
        return "masks"
    if name in ANOMALOUS:
        return "anomalous by its name"
    inside = name == "train" if part == "beside train" else name in NORMAL
    return "" if inside else part


def _part(folders: Iterable[str]) -> str:
    """Returns what other things in a folder lie beside, if it has a normal part."""
    names = {name.lower() for name in folders}
    first = (name for name in ("train", *NORMAL) if name in names)
    return next((f"beside {name}" for name in first), "")


def _masks(names: list[str]) -> set[str]:
    """Returns those names that are masks of others: ``a_mask.png`` beside ``a.jpg``."""
    stems = {pathlib.PurePath(name).stem.lower() for name in names}
    found = set()
    for name in names:
        stem = pathlib.PurePath(name).stem.lower()
        for ending in MASK_ENDINGS:
            if stem.endswith(ending) and stem.removesuffix(ending) in stems:
                found.add(name)
    return found


def chosen(paths: list[pathlib.Path], start: StrPath, *, learn: bool) -> Listing:
    """Returns files that a pattern found, without those that `below` would leave out.

    Args:
      paths: The files.
      start: The folder that the pattern names without wildcards.
      learn: Whether only normal images are wanted.
    """
    kept, notes = [], []
    first = pathlib.Path(start)
    parts: dict[pathlib.Path, str] = {}

    def reason(folder: pathlib.Path) -> str:
        up = folder.parent
        if learn and up not in parts:
            parts[up] = _part(p.name for p in up.iterdir() if p.is_dir())
        return _reason(folder.name, parts.get(up, ""), learn)

    for path in sorted(paths):
        folders = [p for p in path.parents if first in p.parents]
        found = ((p, reason(p)) for p in reversed(folders))
        note = next((f"{p} ({why})" for p, why in found if why), "")
        if not note:
            kept.append(path)
        elif note not in notes:
            notes.append(note)
    pictures = [path for path in kept if not _own(path)]
    if len(pictures) < len(kept):
        notes.append(f"{_images(len(kept) - len(pictures))} below {first} ({_OWN})")
        kept = pictures
    if learn:
        by_folder: dict[pathlib.Path, list[str]] = {}
        for path in kept:
            by_folder.setdefault(path.parent, []).append(path.name)
        masks = {f / name for f, names in by_folder.items() for name in _masks(names)}
        notes.extend(f"{path} (a mask of another one)" for path in sorted(masks))
        kept = [path for path in kept if path not in masks]
    return Listing(kept, notes)
