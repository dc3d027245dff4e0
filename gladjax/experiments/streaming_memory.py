"""Is the memory of a long run flat? Ten thousand images in one process.

    python -m gladjax.experiments.streaming_memory --output OUT --count 10000

Tiny images are drawn from numbers as they are asked for, every hundredth one is bad,
and the resident memory is read after each hundred. A small model on random features of
a small network scores them, through the same stream as the command line. Expected: flat
after the first hundred, nothing lost, order kept; a few minutes on two cores.

Notation: none.

Differs from the reference in: there is none.

Reference: there is none.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from gladjax import backbone, datasets, detector, files, images, streaming
from gladjax.report import charts

EVERY = 100


class Drawn(Sequence[Any]):
    """Images that are drawn when they are asked for; some are bad."""

    def __init__(self, count: int) -> None:
        """Draws nothing yet."""
        self._count = count

    def __len__(self) -> int:
        """Returns the number of images."""
        return self._count

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        """Draws one image; the last of every hundred is bad."""
        if index % EVERY == EVERY - 1:
            raise images.ImageError(f"image {index} is bad")
        return datasets.draw("texture", number=index % 7, size=32)[0]


def resident() -> float:
    """Returns the resident memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def study(count: int) -> dict[str, Any]:
    """Scores many images and watches the memory.

    Args:
      count: How many.

    Returns:
      Memory after each hundred, its growth after the first hundred, and what was lost
      or out of order: nothing.
    """
    network = backbone.random(
        jax.random.key(0), "efficientnet_lite0", image_size=(32, 32)
    )
    train = [datasets.draw("texture", number=i, size=32)[0] for i in range(7)]
    settings = detector.Settings(num_components=8, max_steps=5)
    fitted = detector.fit(jax.random.key(0), network, train, settings=settings)
    expected = [detector.score(fitted, image).score for image in train]
    memory, wrong, done = [], 0, 0
    begun = time.perf_counter()
    for index, result in enumerate(streaming.score_many(fitted, Drawn(count))):
        score = None if isinstance(result, images.ImageError) else result.score
        due = None if index % EVERY == EVERY - 1 else expected[index % 7]
        wrong += score != due
        done += 1
        if done % EVERY == 0:
            memory.append(round(resident(), 2))
    return {
        "count": count,
        "scored": done,
        "wrong": wrong,
        "seconds": time.perf_counter() - begun,
        "resident_mib": memory,
        "growth_mib": memory[-1] - memory[0],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gladjax.experiments.streaming_memory"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args(arguments)
    found = study(options.count)
    files.write_json(options.output / "memory.json", found)
    memory = np.array(found["resident_mib"], np.float64)
    with files.atomic(options.output / "memory.svg", mode="w") as file:
        file.write(charts.curve(memory, ("hundreds of images", "resident MiB")))
    click.echo(
        f"{found['scored']} images, {found['wrong']} wrong, {found['seconds']:.0f} s; "
        f"resident {memory[0]:.1f} MiB after {EVERY}, {memory[-1]:.1f} MiB at the end"
    )


if __name__ == "__main__":
    main()
