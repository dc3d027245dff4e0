"""What is kept: fetched weights, and programs that XLA has compiled.

Compiling the programs of a fit takes longer than running them; `keep_programs` has JAX
keep them in the cache folder, so that they are compiled once per machine. The command
line and the experiments call it. A library does not write to a user's disk unasked, so
in Python it is a call of your own.

In memory programs are kept too, all of them, and each takes maps of the process, whose
number Linux limits: after a dozen fits or so nothing more could be compiled.
`release_programs` drops them before that.

Notation: none.

Differs from the reference in: nothing.

Reference: XDG Base Directory Specification.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path

VARIABLE = "GLADJAX_CACHE"
PROGRAMS = "programs"
LARGEST = 1 << 30  # Bytes of programs; the oldest go first.
MAPPED = Path("/proc/self/maps")
MAPS = 30_000  # Linux allows 65,530; a fit takes up to 13,000.


def folder() -> Path:
    """Returns the cache folder: ``$GLADJAX_CACHE``, else ``~/.cache/gladjax``."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gladjax"


def keep_programs() -> Path | None:
    """Has JAX keep compiled programs in the cache folder.

    Two processes may share the folder: JAX compiles again what it finds half-written.

    Returns:
      The folder; None where it cannot be written, or where
      ``JAX_COMPILATION_CACHE_DIR`` or ``JAX_ENABLE_COMPILATION_CACHE`` already say what
      to do, which then holds.
    """
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"):
        if name in os.environ:
            return None
    try:
        kept = folder() / PROGRAMS
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=kept):
            pass
        _prune(kept)
    except (OSError, RuntimeError):  # Not writable, or there is no home.
        return None
    options = {
        "jax_compilation_cache_dir": str(kept),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    # JAX takes a second to import, which `--help` need not wait for: it reads these.
    if "jax" not in sys.modules:
        for name, value in options.items():
            os.environ[name.upper()] = str(value)
        return kept
    import jax

    for name, value in options.items():
        jax.config.update(name, value)
    return kept


def _prune(kept: Path) -> None:
    """Removes the oldest programs beyond `LARGEST`."""
    found = [(path, path.stat()) for path in kept.glob("*") if path.is_file()]
    room = LARGEST - sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda pair: pair[1].st_mtime):
        if room >= 0:
            break
        path.unlink(missing_ok=True)
        room += stat.st_size


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

    jax.clear_caches()
    gc.collect()
    return True
