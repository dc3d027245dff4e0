"""Jitted functions whose compiled programs outlive the process.

JAX keeps what XLA compiled, but it traces and lowers a function again in every process
before it can look: more than half of what a command waits for when it scores one image.
A `Program` keeps the loaded program itself: a later process with the same function,
shapes, versions and device reads it and runs. It does so where `cache.keep_programs`
was called, as the command line does; elsewhere a `Program` is ``jax.jit``.

What a program depends on is part of its file's name: the sources of this package, the
versions of what traces and compiles them, JAX's settings and XLA's flags, the processor
or accelerator, the structure, shapes and types of the arguments, and the arguments that
are compile-time constants. Where one of these comes from other code than this package's
(a network of one's own, say), nothing is known of its sources, and JAX does what it
always does. So it does with arrays that are spread over devices.

A kept program (`gladjax.compiled`) is machine code, as those are that JAX keeps: only
files in a folder that nobody else can write to are read. One that is damaged is
compiled again.

On a CPU a program that factors matrices runs alone: two of them at once, in two threads
of a process, may wait for each other's threads for ever (jaxlib 0.10.2, two cores).

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import math
import os
import platform
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental.compilation_cache import compilation_cache

from gladjax import cache, compiled, devices

PLAIN = {"xla_cpu_use_fusion_emitters": False}  # A fifth less time to compile.
_PACKAGE = Path(__file__).parent
_TRACERS = ("jax", "jaxlib", "flax", "numpy")  # Whose versions matter.
_KNOWN = ("gladjax", "builtins", "collections", "functools", *_TRACERS)
_CONTEXT = ("jax_enable_x64", "jax_default_matmul_precision")
_DEBUGGING = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")
_running = threading.RLock()  # Held while a program factors matrices.
_compiling = threading.Lock()
_ahead: list[compiled.Ahead] = []  # What is read while a command runs.
_used: dict[Path, float] = {}  # And how long each took to compile.


class Program:
    """A jitted function; see the module.

    Args:
      function: The function; without ``*args`` and ``**kwargs``.
      static: Names of the arguments that are compile-time constants.
      donate: Names of the arguments whose memory the results may take.
      alone: Whether it factors matrices.
      keep_unused: As in ``jax.jit``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static: Sequence[str] = (),
        donate: Sequence[str] = (),
        alone: bool = False,
        keep_unused: bool = False,
    ) -> None:
        """Compiles nothing yet."""
        functools.update_wrapper(self, function)
        self.function, self._signature = function, inspect.signature(function)
        self._static, self._donate = tuple(static), tuple(donate)
        self._alone, self._keep_unused = alone, keep_unused
        self._jitted = jax.jit(
            function,
            static_argnames=self._static,
            donate_argnames=self._donate,
            keep_unused=keep_unused,
        )
        self.lower, self.trace = self._jitted.lower, self._jitted.trace

    def __call__(self, *args: Any, **named: Any) -> Any:  # noqa: ANN401 - as the function
        """Returns what the function returns; if it runs alone, when it is there."""
        if any(isinstance(a, Tracer) for a in jax.tree.leaves((args, named))):
            return self._jitted(*args, **named)
        devices.check_process()
        if not self._alone or jax.default_backend() != "cpu":
            return self._run(args, named)
        with _running:
            return jax.block_until_ready(self._run(args, named))

    def _run(self, args: tuple[Any, ...], named: dict[str, Any]) -> Any:  # noqa: ANN401
        """Runs the kept program, or JAX's where none can be kept."""
        folder = cache.kept()
        if folder is None or not _usual():
            return self._jitted(*args, **named)
        given = self._signature.bind(*args, **named).arguments
        static = tuple(
            (name, given.pop(name)) for name in self._static if name in given
        )
        leaves, tree = jax.tree.flatten(given)
        kinds = tuple(map(_kind, leaves))
        if None in kinds:
            return self._jitted(*args, **named)
        context = (
            devices.target(),
            *(_setting(name) for name in _CONTEXT),
            *(type(value).__name__ for _, value in static),  # For 1 == 1.0 == True.
        )
        key = (self, tree, static, kinds, context)
        if key not in cache.loaded:
            cache.loaded[key] = self._found(folder, key[1:], leaves)
        program = cache.loaded.get(key)
        return self._jitted(*args, **named) if program is None else program(*leaves)

    def _found(
        self, folder: Path, key: tuple[Any, ...], leaves: list[Any]
    ) -> Callable[..., Any] | None:
        """Reads a program, or compiles and keeps it; None where it has no name."""
        tree, static, kinds, context = key
        kinds = str(kinds)
        try:
            words = "\n".join(
                (_environment(), _told((self.function, tree, static, kinds, context)))
            )
        except _UnknownError:
            return None
        digest = hashlib.sha256(words.encode()).hexdigest()
        path = folder / f"{self.function.__name__}-{digest}{compiled.ENDING}"
        _used.setdefault(path, 0.0)
        program = (_ahead[-1] if _ahead else compiled).read(path)
        if program is None:
            before = time.perf_counter()
            program = _compiled(self._flat(tree, static, leaves), leaves)
            _used[path] = time.perf_counter() - before
            compiled.write(path, program, len(leaves))
        return program

    def _flat(self, tree: Any, static: tuple[Any, ...], leaves: list[Any]) -> Any:  # noqa: ANN401
        """Returns the jitted function of the leaves alone."""

        def function(*leaves: Any) -> Any:  # noqa: ANN401
            return self.function(**jax.tree.unflatten(tree, leaves), **dict(static))

        function.__name__ = self.function.__name__
        given = jax.tree.unflatten(tree, range(len(leaves)))
        donated = jax.tree.leaves([given[n] for n in self._donate if n in given])
        return jax.jit(function, donate_argnums=donated, keep_unused=self._keep_unused)


class Last(NamedTuple):
    """What is known of the last time.

    Attributes:
      programs: How many programs it used that are there.
      notes: What the block has noted, and may note, as JSON allows.
    """

    programs: int
    notes: dict[str, Any]


def compiling() -> float:
    """Returns how long programs were compiled since `as_last_time`, in seconds."""
    return math.fsum(_used.values())


@contextlib.contextmanager
def as_last_time(command: str) -> Iterator[Last]:
    """Reads the programs that a command used the last time while the block runs.

    Where it ends well, those that it used are noted for the next time.

    Args:
      command: A name for what the block does.
    """
    folder = cache.kept()
    words = ""
    with contextlib.suppress(_UnknownError):
        words = _environment() if folder is not None and _usual() else ""
    if folder is None or not words:
        yield Last(0, {})
        return
    digest = hashlib.sha256(words.encode()).hexdigest()
    place = folder / f"{command}-{digest}{compiled.LIST}"
    _used.clear()
    paths, notes = compiled.noted(place)
    _ahead.append(compiled.Ahead(paths))
    try:
        yield Last(len(paths), notes)
        compiled.note(place, _used, notes)
    finally:
        _ahead.pop().stop()


class _UnknownError(Exception):
    """Something of which it is not known whether it will be the same tomorrow."""


def _setting(name: str) -> Any:  # noqa: ANN401 - of any type
    """Returns a setting of JAX, as it is in this thread and block."""
    return getattr(jax.config, name)


def _usual() -> bool:
    """Whether programs run on one device, and nobody looks for errors in them."""
    return (
        _setting("jax_default_device") is None
        and jax.process_count() == 1
        and not any(map(_setting, _DEBUGGING))
    )


def _kind(leaf: Any) -> tuple[Any, ...] | None:  # noqa: ANN401
    """Returns what of an argument a program is compiled for."""
    if isinstance(leaf, jax.Array):
        if leaf.devices() != {jax.devices()[0]}:
            return None
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
    if isinstance(leaf, (np.ndarray, np.generic)):
        return leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype), False
    return (type(leaf).__name__,) if type(leaf) in (bool, int, float, complex) else None


def _told(value: Any) -> str:  # noqa: ANN401 - whatever a program may depend on
    """Returns a value in words that are the same in every process.

    Raises:
      _UnknownError: If it is, or is made by, code of somebody else.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return repr(value)
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, (type, types.FunctionType)):
        return _told_code(value)
    if isinstance(value, jax.tree_util.PyTreeDef):
        node = value.node_data()
        parts = [node and tuple(node), *value.children()]
    elif isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_told, value)))}}}"
    elif isinstance(value, (tuple, list)):  # Named ones too.
        parts = list(value)
    elif isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, Program):
        return _told(value.function)
    elif dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        raise _UnknownError
    return f"{_told_code(kind)}({', '.join(map(_told, parts))})"


def _told_code(value: Any) -> str:  # noqa: ANN401 - a class or a function
    """Returns where in this package, Python or JAX something is defined."""
    if value.__module__.partition(".")[0] not in _KNOWN:
        raise _UnknownError
    name = f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, type):
        return name
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    given = _told((value.__defaults__, value.__kwdefaults__, cells))
    # Tells two of one line apart.
    columns = sorted({place[2:] for place in value.__code__.co_positions()}, key=str)
    return f"{name}:{value.__code__.co_firstlineno}:{columns}{given}"


@functools.cache
def _environment() -> str:
    """Returns, in words, what all programs of a process depend on."""
    sources = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        sources.update(f"{path.relative_to(_PACKAGE)}\n".encode())
        sources.update(hashlib.sha256(path.read_bytes()).digest())
    device = jax.devices()[0]
    settings = getattr(jax.config, "values", None)
    if settings is None:
        raise _UnknownError
    return "\n".join(
        (
            sources.hexdigest(),
            sys.version,
            *(f"{name} {metadata.version(name)}" for name in _TRACERS),
            f"{device.platform} {device.device_kind} {len(jax.devices())}",
            device.client.platform_version,
            _processor(),
            *(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")),
            repr(sorted((k, v) for k, v in settings.items() if "cache" not in k)),
        )
    )


def _processor() -> str:
    """Returns what the processor can do: a program for another one may end this one."""
    words = f"{platform.machine()} {platform.processor()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Not Linux.
        return words
    names = ("model name", "flags", "Features")
    return "\n".join(
        [words, *dict.fromkeys(line for line in lines if line.startswith(names))]
    )


def _compiled(function: Any, leaves: list[Any]) -> Any:  # noqa: ANN401 - private types
    """Compiles a jitted function, past JAX's cache.

    What JAX read from its cache cannot be written again.
    """
    lowered = function.lower(*leaves)
    with _compiling:
        enabled = _setting("jax_enable_compilation_cache")
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        try:
            return _plainly(lowered)
        finally:
            jax.config.update("jax_enable_compilation_cache", enabled)
            compilation_cache.reset_cache()


def _plainly(lowered: Any) -> Any:  # noqa: ANN401 - private types
    """Compiles a program; on a CPU in the shorter of XLA's ways, where it has two."""
    if jax.default_backend() == "cpu":
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # It does not know it.
            return lowered.compile(compiler_options=PLAIN)
    return lowered.compile()
