"""Processes that tests start."""

import os
import subprocess
import sys


def run(code, folder, **more):
    """Runs code with a cache folder, and without JAX's settings of this process.

    Args:
      code: What a fresh interpreter runs; it must succeed.
      folder: Its cache folder.
      **more: Further variables of its environment.

    Returns:
      What it printed, and its errors.
    """
    known = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**known, "GLADJAX_CACHE": str(folder), **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
