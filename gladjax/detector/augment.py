"""Copies of an image that are as good a product as it is: mirrored, turned.

A screw that lies anyhow is as good when it is turned or seen in a mirror, so each
photograph of one stands for eight. Where images are few that is worth more than
anything else (experiments, `augment`). It is wrong where a part that is turned is a
defect, so ``auto`` asks the images: where local weights do not hold
(`Settings.min_kept`) a second fit learns from copies too. It is taken if in every layer
most images, left out with their copies, are likelier under it (`likelier`), and ends
with the first layer in which they are not: the layers of a transistor, which never lies
otherwise, do not agree on that.

Notation: ``c`` copies.

Differs from the reference in
  1. The paper learns from images as they are.

Reference: there is none.
"""

import numpy as np
from jaxtyping import Float, Num

COPIED = ("flip", "dihedral")
"""Mirrored left to right; turned by quarters, and mirrored."""
KINDS = ("auto", "", *COPIED)
"""As the images ask; as they are; or `COPIED`."""
TRIED = "dihedral"  # By ``auto``.
MOST = 0.9  # Of the images left out, which must be likelier.
COPIES = "copies: "  # Stands before the stages of a fit that tries them.


def copies(
    image: Num[np.ndarray, "h w 3"], kind: str
) -> list[Num[np.ndarray, "h w 3"]]:
    """Returns an image and its copies, all of its size.

    Args:
      image: The image.
      kind: One of `KINDS`.

    Returns:
      The image first, alone of ``auto``; of ``dihedral`` eight in all, four where it is
      not square, which half turns leave as it lies.
    """
    found = [image]
    if kind == "dihedral":
        step = 1 if image.shape[0] == image.shape[1] else 2
        found = [np.rot90(image, turns) for turns in range(0, 4, step)]
    if kind in COPIED:
        found += [one[:, ::-1] for one in found]
    return [np.ascontiguousarray(one) for one in found]


def number(kind: str, size: tuple[int, int]) -> int:
    """Returns how many `copies` an image has, itself among them.

    Args:
      kind: One of `KINDS`.
      size: Its height and width.
    """
    square = size[0] == size[1]
    return len(copies(np.zeros((1, 1 if square else 2, 3), np.uint8), kind))


def likelier(before: Float[np.ndarray, " m"], after: Float[np.ndarray, " m"]) -> float:
    """Returns the share of images that copies make likelier, in one layer.

    Args:
      before: Mean log-probability of the images left out; NaN for those that never are.
      after: That where copies are learnt from too; images of which it is not known,
        NaN, count as likelier.
    """
    known = np.isfinite(before)
    return float(np.mean(~(after[known] <= before[known])))
