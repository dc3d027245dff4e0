"""Forks after JAX ran say so, threads that fit at once wait: nothing hangs."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, sys, warnings
import numpy as np
import tiny
from gladjax import detector, devices, samples

blank = detector.Detector(
    tiny.network(), {}, np.ones((32, 32), bool), None, None, detector.Settings()
)
image = np.zeros((40, 40, 3), np.uint8)

def work(name):
    try:
        if name == "image":
            detector.align_image(blank, image)
        elif name == "samples":
            samples.checked(np.zeros((3, 2)), None)
        else:
            devices.sizes()
    except RuntimeError as error:
        return str(error)
    return "done"

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # JAX warns of forks.
    for name in ("image", "samples", "sizes"):
        assert work(name) == "done"
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        for name in ("image", "samples", "sizes"):
            print(pool.map_async(work, [name]).get(100)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize(
    ("method", "expected"), [("fork", "forked after JAX ran"), ("spawn", "done")]
)
def test_a_forked_worker_says_so(method, expected, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = str(pathlib.Path(__file__).parent)
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, method],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(expected in line for line in lines)


THREADS = """
import threadpoolctl
from gladjax import devices

devices.sizes()
for library in threadpoolctl.ThreadpoolController().info():
    if "scipy.libs" in library["filepath"] or "scipy/.dylibs" in library["filepath"]:
        print(library["num_threads"])
"""


@pytest.mark.parametrize("asked", [None, "3"])
def test_small_factorisations_take_one_thread(asked):
    known = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    environment = known if asked is None else {**known, "OPENBLAS_NUM_THREADS": asked}
    found = subprocess.run(
        [sys.executable, "-c", THREADS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    if not found:
        pytest.skip("SciPy has no library of its own here")
    assert found == [asked or "1"]


FITS = """
import os, threading
import jax, numpy as np
from gladjax import kmle

x = np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)

def work(i):
    kmle.fit(jax.random.key(i), x, num_components=32, max_steps=8)

if __name__ == "__main__":
    work(0)
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    print(sum(thread.is_alive() for thread in threads), flush=True)
    os._exit(0)
"""


def test_threads_that_fit_at_once_do_not_wait_for_each_other_for_ever(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FITS)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0"]
