"""What a command may write: its names, and which files it may replace.

One rule holds for every file: it may take the place of a file of its own kind that this
program wrote, and of nothing else, unless that is asked for. Each kind has a mark that
stands near the beginning or the end of its files, so a photograph, a page of somebody
else's or a model under the name of a page is told apart. Whatever can be known of an
output is looked at before the work begins: a folder that cannot be written is no news
after an hour.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import os
import pathlib
import stat
from collections.abc import Sequence
from typing import NamedTuple

from gladjax import files
from gladjax.files import StrPath

SOFTWARE = "gladjax"
"""What the pictures and pages of this program say that they were made by."""

_PART = 1024  # Bytes, first or last, in which a mark stands.
_MAX_NAME = 255  # Bytes of a file's name that most file systems allow.


class Kind(NamedTuple):
    """A kind of file that this program writes.

    Attributes:
      name: What messages call it.
      mark: Bytes that stand near the beginning or the end of every such file.
    """

    name: str
    mark: bytes


MODEL = Kind("model", b'"format": "gladjax-detector"')
WEIGHTS = Kind("converted checkpoint", b'"format": "gladjax"')
PAGE = Kind("page", f'<meta name="generator" content="{SOFTWARE}">'.encode())
PICTURE = Kind("picture", b"tEXtSoftware\0" + SOFTWARE.encode())
STABLEHLO = Kind("StableHLO program", f"{SOFTWARE}_detector".encode())
ONNX = Kind("ONNX program", b"\x12\x07" + SOFTWARE.encode())
RESULTS = Kind("results", b'[\n  {\n    "active_per_position": ')


def written(path: StrPath, kind: Kind) -> bool:
    """Whether a file is of a kind, and was written by this program.

    Args:
      path: The file; one that cannot be read is none.
      kind: The kind.
    """
    try:
        with open(path, "rb") as file:
            if kind.mark in file.read(_PART):
                return True
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _PART, 0))
            return kind.mark in file.read(_PART)
    except (OSError, ValueError):
        return False


def check(path: StrPath, kind: Kind, *, force: bool = False) -> None:
    """Refuses an output that could not be written, or would replace what it must not.

    Args:
      path: The file that is to be written.
      kind: What will be in it.
      force: Whether any regular file may be replaced.

    Raises:
      ValueError: If the path is no place for a file; or, unless ``force``, if a file is
        there that is not empty and of another kind, that somebody else wrote, or that
        is read-only.
      OSError: If its folder cannot be written.
    """
    target = pathlib.Path(path)
    folder = pathlib.Path(os.path.abspath(target)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{target}: cannot be written, since {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{target}: no permission to write in {folder}")
    try:
        found = target.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(f"{target}: cannot be written ({error.strerror})") from error
    if not target.is_symlink() and not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{target}: not a regular file; choose another name")
    if force or found.st_size == 0:
        return
    if not target.is_symlink() and not found.st_mode & 0o222:
        raise ValueError(f"{target}: is read-only; choose another name, or --force")
    if not written(target, kind):
        raise ValueError(
            f"{target}: is there already and no {kind.name} that gladjax wrote; choose "
            "another name, or --force"
        )


def check_all(wanted: Sequence[tuple[StrPath | None, Kind]], *, force: bool) -> None:
    """Checks all outputs of a command, see `check`.

    Args:
      wanted: Each file, or None where it is not asked for, and its kind.
      force: Whether any regular file may be replaced.

    Raises:
      ValueError: If two of them are one file, or as in `check`.
      OSError: As in `check`.
    """
    seen: set[str] = set()
    for path, kind in wanted:
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in seen:
            raise ValueError(f"{os.fspath(path)}: two outputs have this name")
        seen.add(place)
        check(path, kind, force=force)


class Names:
    """Names for a picture per image, all different, all inside of one folder."""

    def __init__(self, folder: StrPath, paths: Sequence[StrPath]) -> None:
        """Finds the folder that all images share; their places below it are kept.

        Args:
          folder: Where the pictures go.
          paths: All images, as far as they are known before; without any, places are
            those below the current folder.
        """
        self._folder = pathlib.Path(folder)
        try:
            parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
            self._base = os.path.commonpath(parents or [os.getcwd()])
        except ValueError:  # They lie on several drives.
            self._base = os.getcwd()
        self._used: set[str] = set()

    def next(self, path: StrPath) -> pathlib.Path:
        """Returns the name of the picture of the next image.

        Args:
          path: The image: an image ``a/b.png`` becomes ``a/b.png``, ``a/b.jpg`` becomes
            ``a/b.jpg.png``, and one that is there already gets a number.
        """
        place = self._place(path)
        stem = place.name if place.suffix.lower() != ".png" else place.stem
        number = 1
        while True:
            ending = ".png" if number == 1 else f"-{number}.png"
            target = files.inside(
                self._folder, place.with_name(_shortened(stem, ending))
            )
            if str(target).casefold() not in self._used:
                break
            number += 1
        self._used.add(str(target).casefold())
        return target

    def _place(self, path: StrPath) -> pathlib.Path:
        """Returns a path below the shared folder; an outer one has all its folders."""
        whole = pathlib.Path(os.path.abspath(path))
        try:
            place = whole.relative_to(self._base)
        except ValueError:
            place = whole.relative_to(whole.anchor)
        # What is a drive or a folder elsewhere is a part of a name here.
        parts = [part.replace("\\", "_").replace(":", "_") for part in place.parts]
        return pathlib.Path(*parts)


def _shortened(stem: str, ending: str) -> str:
    """Returns a file name that is not longer than file systems allow."""
    room = _MAX_NAME - len(ending)
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + ending


def printable(text: str) -> str:
    r"""Returns a line of text in which nothing can pass for another line.

    Args:
      text: Words with names of files in them, which may hold any character, and bytes
        that are none.

    Returns:
      The text; line ends, escape characters, marks of direction and the like are
      written as Python writes them.

    Example:
      >>> print(printable("a\nb"))
      a\nb
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
