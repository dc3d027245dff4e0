"""Results on disk under a description of how they came about, for work in pieces.

The rows of a table share most of their work: the same features, the same mixture under
other weights. Each such piece is computed once, kept in a folder of its own, and found
again by later rows, later tables and later processes. A piece that was not finished is
not there.

Notation: a *description* is a mapping that JSON can hold; equal ones are the same work.

Differs from the reference in: there is none.

Reference: there is none.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gladjax import files

Description = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


class Piece(NamedTuple):
    """A result.

    Attributes:
      arrays: Arrays by name.
      info: What else is to be known, such as seconds.
    """

    arrays: Arrays
    info: dict[str, Any]


def get(
    folder: Path, description: Description, make: Callable[[], Piece], *, name: str
) -> Piece:
    """Returns a piece, computed only if it does not lie there already.

    Args:
      folder: Where pieces are kept.
      description: How the piece comes about.
      make: Computes it.
      name: Begins the name of its folder.

    Returns:
      What `make` returned, now or when it was called with this description.
    """
    text = json.dumps(description, sort_keys=True, default=str)
    place = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    ready = place / "piece.json"
    if not ready.exists():
        made = make()
        for key, value in made.arrays.items():
            with files.atomic(place / f"{key}.npy") as file:
                np.save(file, value, allow_pickle=False)
        head = {"description": json.loads(text), "arrays": sorted(made.arrays)}
        files.write_json(ready, {**head, "info": made.info})
        return made
    found = files.read_json(ready)
    arrays = {
        key: np.load(files.inside(place, f"{key}.npy"), allow_pickle=False)
        for key in found["arrays"]
    }
    return Piece(arrays, found["info"])
