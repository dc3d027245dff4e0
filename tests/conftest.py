"""Settings and fixtures shared by all tests."""

import atexit
import gc
import os
import pathlib
import shutil
import signal
import tempfile

import flags  # noqa: F401 - sets XLA's before JAX reads them

# Programs are kept for the programs that tests start, for later modules and for the
# other workers, which inherit the folder; nothing is left in the user's cache folder.
if "PYTEST_XDIST_WORKER" not in os.environ:
    PROGRAMS = tempfile.mkdtemp(prefix="gladjax-programs-")
    atexit.register(shutil.rmtree, PROGRAMS, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import numpy as np
import pytest

from gladjax import cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell's background job ignores interrupts, and so do the programs that tests start
# and interrupt; with a handler here they get the default again.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAPS = 20_000  # Of memory; Linux allows 65,530.


def pytest_collection_finish():
    """What is there by now stays; looking through it for garbage takes a while."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture(autouse=True, scope="session")
def _commands_that_tests_call_keep_no_programs():
    """A test may replace parts of the package; the programs it starts keep theirs."""
    cache.keep_programs = lambda: None


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_end_with_their_module():
    """Frees what XLA compiled: its maps of memory are limited in number per process."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def _compiled_programs_end_before_there_are_too_many():
    """Does so within a module of many programs."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(params=[0], ids=lambda s: f"seed{s}")
def rng(request):
    """A NumPy generator of a named seed."""
    return np.random.default_rng(request.param)


@pytest.fixture(params=["eager", "jit"])
def variant(request):
    """Applies a function as it is, or jitted."""
    return jax.jit if request.param == "jit" else (lambda f: f)


@pytest.fixture
def x64():
    """Runs one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def mvtec_root():
    """The folder of real MVTec AD categories, where it is at hand."""
    named = os.environ.get("GLADJAX_MVTEC_ROOT")
    root = pathlib.Path(named) if named else ROOT.parent / "shared" / "data" / "mvtec"
    if not root.is_dir():
        pytest.skip("no MVTec AD folder here (set GLADJAX_MVTEC_ROOT)")
    return root
