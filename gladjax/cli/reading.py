"""Getting to know the images a command learns from or scores: damage, copies, range.

Images to learn from are read once before all else. Unreadable ones are left out, equal
content counts once, and the range of values that they have holds for later images.
"""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gladjax import images, masks
from gladjax.backbone import Backbone
from gladjax.cli.options import Progress
from gladjax.cli.saying import say
from gladjax.images import Depth, Facts, Learnt

ASKED = {
    "a range": "; is the bit depth or the exposure another one?",
    "an aspect ratio": "",
}
"""What is asked of an image that is unlike those learnt from in a way."""


class Found(NamedTuple):
    """The images to learn from.

    Attributes:
      paths: Readable files, all of different content.
      facts: What is known of each.
      num_bad: Number of unreadable files.
    """

    paths: list[Path]
    facts: list[Facts]
    num_bad: int


def readable(
    paths: Sequence[Path],
    *,
    strict: bool,
    progress: Progress,
    known: Learnt | None = None,
) -> Found:
    """Reads every image once; bad ones and copies are reported and left out.

    Args:
      paths: The files.
      strict: Whether the first bad one ends the command.
      progress: Told of every image.
      known: What was learnt from before; its images are left out too.

    Returns:
      The images to learn from.

    Raises:
      ImageError: At a bad image if ``strict``, or if all are bad or were learnt before.
    """
    good: list[tuple[Path, Facts]] = []
    bad: list[images.ImageError] = []
    lazy = images.Lazy(paths, read=images.facts)
    for path, outcome in zip(paths, images.outcomes(lazy), strict=True):
        if isinstance(outcome, images.ImageError):
            if strict:
                raise outcome
            say(f"left out: {outcome}", err=True)
            bad.append(outcome)
        else:
            good.append((path, outcome))
        progress("reading", len(good) + len(bad), len(paths))
    if not good:
        raise images.ImageError(f"none of {len(bad)} images is readable: {bad[0]}")
    return _once(good, len(bad), known)


def _once(
    good: Sequence[tuple[Path, Facts]], num_bad: int, known: Learnt | None
) -> Found:
    """Leaves out copies, and what was learnt before, and says so."""
    copies = images.copies(facts.content for _, facts in good)
    pairs = [f"{good[i][0]} is {good[first][0]}" for i, first in copies.items()]
    if pairs:
        say(
            f"left out: {counted(pairs, 'copy', 'copies')} of other images, since "
            f"equal content counts once: {images.named(pairs)}",
            err=True,
        )
    old = frozenset() if known is None else known.contents
    before = [str(path) for path, facts in good if facts.content in old]
    if before:
        several = counted(before, "image", "images")
        say(f"left out: {several} learnt before: {images.named(before)}", err=True)
    kept = [
        item
        for i, item in enumerate(good)
        if i not in copies and item[1].content not in old
    ]
    if not kept:
        raise images.ImageError("every image was learnt before; give other ones")
    return Found([path for path, _ in kept], [facts for _, facts in kept], num_bad)


def counted(items: Sequence[str], one: str, many: str) -> str:
    """Returns how many there are, in words."""
    return f"{len(items)} {one if len(items) == 1 else many}"


def learnt(found: Found, *, bits: int | None) -> Learnt:
    """Returns what is known of the images to learn from, and says what is not obvious.

    Args:
      found: The images.
      bits: The depth of 16-bit files, where it is declared.

    Raises:
      ValueError: If a value does not fit into the depth.
    """
    known = images.learnt(found.facts, bits=bits)
    if known.depth.bits not in (None, 16):
        how = "by their largest value (else --bit-depth)" if bits is None else "as said"
        say(f"16-bit files: {known.depth.bits} bits are used, {how}", err=True)
    if known.depth.white == 1:
        say("float files: read as 0 to 1, by their largest value", err=True)
    peaks = np.array([images.peak(one, known.depth) for one in found.facts])
    dark = peaks < images.DARKER * np.median(peaks)
    if dark.any():
        which = images.named([p for p, d in zip(found.paths, dark, strict=True) if d])
        say(
            f"warning: much darker than the others, is the bit depth or the exposure "
            f"another one? {which}",
            err=True,
        )
    return known


def mask(
    path: Path | None, network: Backbone, facts: Sequence[Facts]
) -> np.ndarray | None:
    """Returns the mask of a file at the size of a network's images, None without one.

    Args:
      path: The file.
      network: The network.
      facts: What is known of the images that the mask is for.

    Raises:
      ValueError: If it is no mask, or has another aspect ratio than the images.
    """
    if path is None:
        return None
    like = dict.fromkeys(one.shape for one in facts)
    return np.asarray(masks.from_file(path, shape=network.image_size, like=like))


def later(known: Learnt | None, found: Found) -> Learnt:
    """Returns what is known once a model learns from further images.

    Args:
      known: What is known of those it learnt from before; warns of an unlike range.
      found: The further images.
    """
    if known is None:
        return images.learnt(found.facts, depth=images.UNKNOWN)
    bits, white = images.learnt(found.facts).depth
    if known.depth.white is not None:
        white = known.depth.white
    depth = Depth(known.depth.bits or bits, white)
    for path, facts in zip(found.paths, found.facts, strict=True):
        range_ = images.unlike(known, images.peak(facts, depth))
        for reason in (range_, images.stretched(known, facts.shape)):
            if reason:
                say(f"warning: {path}: {reason}", err=True)
    further = images.learnt(found.facts, depth=depth)
    return images.joined(known._replace(depth=depth), further)


class Reader:
    """Reads images as those that a model learnt from, and notes what is unlike them."""

    def __init__(self, known: Learnt | None) -> None:
        """Has noted nothing yet.

        Args:
          known: What the model says of the images it learnt from.
        """
        self.known = known
        self._depth = images.UNKNOWN if known is None else known.depth
        self._unlike: dict[Path, dict[str, str]] = {}
        self._told: collections.Counter[str] = collections.Counter()

    def __call__(self, path: Path) -> np.ndarray:
        """Returns an image, 0 to 255.

        Args:
          path: The file.

        Raises:
          ImageError: If it is not readable.
        """
        image = images.read(path, depth=self._depth)
        if self.known is not None:
            found = {
                "a range": images.unlike(self.known, float(image.max())),
                "an aspect ratio": images.stretched(self.known, image.shape[:2]),
            }
            if any(found.values()):
                self._unlike[path] = {what: why for what, why in found.items() if why}
        return images.saturated(image)

    def tell(self, path: Path) -> None:
        """Warns of an image that was read, if it is the first that is unlike in a way.

        Args:
          path: The file.
        """
        for what, reason in self._unlike.get(path, {}).items():
            self._told[what] += 1
            if self._told[what] == 1:
                say(f"warning: {path}: {reason}{ASKED[what]}", err=True)

    def end(self) -> None:
        """Says how many there were, if more than one."""
        for what, count in self._told.items():
            if count > 1:
                say(
                    f"warning: {count} images have {what} unlike those learnt from",
                    err=True,
                )


def tell_copies(test: Sequence[tuple[Path, Facts]], known: frozenset[str]) -> None:
    """Names test images that are equal to images learnt from, or to each other.

    Args:
      test: The test images.
      known: Codes of the images learnt from.
    """
    seen = [str(path) for path, facts in test if facts.content in known]
    if seen:
        several = counted(seen, "test image is", "test images are")
        say(
            f"warning: {several} among those for training: {images.named(seen)}",
            err=True,
        )
    copies = images.copies(facts.content for _, facts in test)
    pairs = [f"{test[i][0]} is {test[first][0]}" for i, first in copies.items()]
    if pairs:
        several = counted(pairs, "test image is a copy", "test images are copies")
        say(f"warning: {several} of others: {images.named(pairs)}", err=True)
