"""Where checkpoints are kept.

Notation: none.

Differs from the reference in: nothing.

Reference: XDG Base Directory Specification.
"""

import os
from pathlib import Path

VARIABLE = "GLADJAX_CACHE"


def folder() -> Path:
    """Returns the cache folder: ``$GLADJAX_CACHE``, else ``~/.cache/gladjax``."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gladjax"
