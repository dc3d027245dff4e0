"""A layer larger than the memory that a fit may take: memory-mapped features.

As many samples as 2,000 images have in the first layer of wide_resnet50_2 (64 x 64
positions, 256 features, 8.4 GB in float32) are drawn from a few Gaussians and written
to a file; K-MLE reads it in chunks. What the process holds beside the map (``RssAnon``,
Linux) is read ten times a second.
"""

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gladjax import kmle

NUM_FEATURES = 256


class Watch(threading.Thread):
    """Reads the anonymous resident memory until it is told to stop."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        super().__init__(daemon=True)
        self.peak, self._done = 0, threading.Event()

    def run(self) -> None:
        """Keeps the largest value."""
        while not self._done.wait(0.1):
            self.peak = max(self.peak, anonymous())

    def stop(self) -> int:
        """Returns the largest value seen, in bytes."""
        self._done.set()
        self.join()
        return self.peak


def anonymous() -> int:
    """Returns the resident memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(found["RssAnon"].split()[0])


def measure(
    *, num_images: int = 2000, num_components: int = 16, max_steps: int = 2
) -> dict[str, Any]:
    """Fits a mixture to a file.

    Args:
      num_images: How many images' worth of samples.
      num_components: Components to start with.
      max_steps: Steps.

    Returns:
      The record.
    """
    shape = (num_images * 64 * 64, NUM_FEATURES)
    rng = np.random.default_rng(0)
    means = 2 * rng.standard_normal((num_components, NUM_FEATURES), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        block = rng.standard_normal((4096, NUM_FEATURES), np.float32)
        for first in range(0, shape[0], 4096):
            chosen = rng.integers(0, num_components, 4096)
            shift = rng.integers(0, NUM_FEATURES)
            out[first : first + 4096] = np.roll(block, shift, axis=1) + means[chosen]
        out.flush()
        del out
        samples = np.load(path, mmap_mode="r")
        before = anonymous()
        watch = Watch()
        watch.start()
        begun = time.perf_counter()
        fitted, info = kmle.fit(
            jax.random.key(0),
            samples,
            num_components=num_components,
            max_steps=max_steps,
        )
        seconds = time.perf_counter() - begun
        peak = watch.stop()
        del samples
        size = path.stat().st_size
    return {
        "file_bytes": size,
        "num_samples": shape[0],
        "num_components": len(fitted.means),
        "steps": len(info.log_likelihood),
        "seconds": seconds,
        "bytes_before": before,
        "peak_bytes_beside_the_map": peak,
        "log_likelihood": [float(v) for v in info.log_likelihood],
    }


def rows(record: dict[str, Any]) -> list[list[str]]:
    """Returns the record as rows of a table, the head first."""
    return [
        ["file GB", "samples", "components", "steps", "s", "GiB beside the map"],
        [
            f"{record['file_bytes'] / 1e9:.2f}",
            str(record["num_samples"]),
            str(record["num_components"]),
            str(record["steps"]),
            f"{record['seconds']:.0f}",
            f"{record['peak_bytes_beside_the_map'] / 2**30:.2f}",
        ],
    ]
