"""What is kept: fetched weights, and programs that XLA has compiled.

Compiling the programs of a fit takes longer than running them; `keep_programs` has them
kept in the cache folder, so that they are compiled once per machine: those of this
package whole (`gladjax.programs`), all others by JAX. The command line calls it. A
library does not write to a user's disk unasked, so in Python it is a call of your own.

In memory programs are kept too, all of them, and each takes maps of the process, whose
number Linux limits: after a dozen fits or so nothing more could be compiled.
`release_programs` drops them before that.

Notation: none.

Differs from the reference in: nothing.

Reference: XDG Base Directory Specification.
"""

import gc
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

VARIABLE = "GLADJAX_CACHE"
PROGRAMS = "programs"
LARGEST = 1 << 30  # Bytes of programs; the oldest go first.
MAPPED = Path("/proc/self/maps")
MAPS = 30_000  # Linux allows 65,530; a fit takes up to 13,000.
loaded: dict[Any, Any] = {}
"""Programs in memory that are kept, by what they were compiled for."""
_kept: list[Path] = []


def folder() -> Path:
    """Returns the cache folder: ``$GLADJAX_CACHE``, else ``~/.cache/gladjax``."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gladjax"


def kept() -> Path | None:
    """Returns the folder in which `gladjax.programs` keeps; None where it does not."""
    return _kept[0] if _kept else None


def keep_programs() -> Path | None:
    """Has compiled programs kept in the cache folder.

    Two processes may share the folder: what is half-written is compiled again.

    Returns:
      The folder: ``JAX_COMPILATION_CACHE_DIR`` where that is set. None where it cannot
      be written, or where ``JAX_ENABLE_COMPILATION_CACHE`` is set, which then holds.
    """
    _kept.clear()
    if "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return None
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if named is not None:
        _kept.extend([Path(named)] if _private(Path(named)) else [])
        return Path(named)
    try:
        place = folder() / PROGRAMS
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
        _prune(place)
    except (OSError, RuntimeError):  # Not writable, or there is no home.
        return None
    _kept.extend([place] if _private(place) else [])
    options = {
        "jax_compilation_cache_dir": str(place),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    # JAX takes a second to import, which `--help` need not wait for: it reads these.
    if "jax" not in sys.modules:
        for name, value in options.items():
            os.environ[name.upper()] = str(value)
        return place
    import jax

    for name, value in options.items():
        jax.config.update(name, value)
    return place


def _private(place: Path) -> bool:
    """Whether nobody else can write to a folder, so that what is in it may be run."""
    try:
        found = place.stat()
    except OSError:  # JAX may know where it is, such as gs://bucket.
        return False
    if not hasattr(os, "getuid"):
        return True
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == os.getuid() and not writable


def _prune(kept: Path) -> None:
    """Removes the oldest programs beyond `LARGEST`."""
    found = [(path, path.stat()) for path in kept.glob("*") if path.is_file()]
    room = LARGEST - sum(known.st_size for _, known in found)
    for path, known in sorted(found, key=lambda pair: pair[1].st_mtime):
        if room >= 0:
            break
        path.unlink(missing_ok=True)
        room += known.st_size


def clear_programs() -> int:
    """Removes the compiled programs that are kept.

    Returns:
      The number of bytes that are free now.
    """
    freed = 0
    for path in sorted((folder() / PROGRAMS).glob("*")):
        if path.is_file():
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed


def release_programs(*, maps: int = MAPS) -> bool:
    """Drops the programs in memory if they take too many maps; called by every fit.

    They are compiled again, or read from the cache folder, when they are needed.

    Args:
      maps: Largest number of memory maps of this process.

    Returns:
      Whether they were dropped.
    """
    try:
        found = MAPPED.read_bytes().count(b"\n")
    except OSError:  # Not Linux.
        return False
    if found <= maps:
        return False
    import jax

    loaded.clear()
    jax.clear_caches()
    gc.collect()
    return True
