"""Two commits against each other: the same work, in turn, each in a process of its own.

The other commit is a folder, such as ``git worktree add FOLDER COMMIT`` makes. Each
round runs one process of either commit; the table has medians, and quotients of them.
What is timed is what users call: `assign.nearest` without a guess, under the mixture of
two steps, and a fit of some steps, each after a first call that compiles.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gladjax.experiments import runner
from gladjax.experiments.performance import timing

CASES = (
    ("efficientnet_lite0", "layer1", 122_880, 200),
    ("efficientnet_lite0", "layer2", 30_720, 200),
    ("efficientnet_lite0", "layer3", 51_200, 1000),
    ("efficientnet_lite0_wide", "layer3", 51_200, 1000),
)
STEPS = 8
CHILD = """
import json, sys, time
import jax, numpy as np
from gladjax import assign, kmle
x, k, steps = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
key = jax.random.key(0)
fitted = kmle.fit(key, x, num_components=k, max_steps=2)[0]
labels = np.asarray(assign.nearest(fitted, x)[0])
found = {}
begun = time.perf_counter()
jax.block_until_ready(assign.nearest(fitted, x))
found["nearest"] = time.perf_counter() - begun
kmle.fit(key, x, num_components=k, max_steps=steps)
begun = time.perf_counter()
done = kmle.fit(key, x, num_components=k, max_steps=steps)[1]
found["fit"] = time.perf_counter() - begun
found["steps"] = len(done.log_likelihood)
sample = np.random.default_rng(0).choice(len(x), 256, replace=False)
with jax.enable_x64(True):
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64) if a.dtype == np.float32
                        else np.asarray(a), fitted)
    from gladjax import mixture
    every = jax.jit(lambda m, u: jax.lax.map(lambda v: mixture.costs(m, v), u))
    exact = np.asarray(every(wide, x[sample].astype(np.float64)))
own = exact[np.arange(len(sample)), labels[sample]]
found["wrong"] = int(np.sum(own > exact.min(axis=1) + 2e-3))
print(json.dumps(found))
"""


def measure(
    other: Path, *, rounds: int, keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """Times both commits.

    Args:
      other: Folder of the other commit.
      rounds: How often each of them runs.
      keep: Gets the records so far after each size.

    Returns:
      One record for each size.

    Raises:
      ValueError: If the folder does not hold the package, or nothing is to be run.
    """
    if not (other / "gladjax").is_dir():
        raise ValueError(f"{other} has no folder gladjax: make it by git worktree add")
    if rounds < 1:
        raise ValueError(f"--rounds must be 1 or more, not {rounds}")
    here = Path(__file__).resolve().parents[3]
    records = []
    with tempfile.TemporaryDirectory() as folder, runner.Bar("commits") as bar:
        for case, (name, layer, n, k) in enumerate(CASES):
            features = timing.solar_cells(name, layer, limit=n)
            path = Path(folder) / "features.npy"
            np.save(path, features)
            found: dict[str, list[dict[str, Any]]] = {"other": [], "here": []}
            for _ in range(rounds):
                found["other"].append(_run(other, path, k))
                found["here"].append(_run(here, path, k))
            record: dict[str, Any] = {
                "samples": n,
                "features": features.shape[1],
                "components": k,
                "rounds": rounds,
                "wrong_labels": max(one["wrong"] for one in found["here"]),
            }
            for part in ("nearest", "fit"):
                times = {
                    who: statistics.median(one[part] for one in all_)
                    for who, all_ in found.items()
                }
                record[part] = {**times, "times_faster": times["other"] / times["here"]}
            records.append(record)
            keep(records)
            bar("sizes", case + 1, len(CASES))
    return records


def _run(tree: Path, features: Path, components: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(features), str(components), str(STEPS)],
        env=timing.environment(PYTHONPATH=str(tree)),
        cwd=features.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"{tree}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the table.

    Args:
      records: From `measure`.
    """
    head = ("samples", "features", "components", "nearest s", "before", "times faster")
    head += (f"fit, {STEPS} steps, s", "before", "times faster", "wrong labels of 256")
    return [
        head,
        *(
            (
                f"{r['samples']:,}",
                str(r["features"]),
                str(r["components"]),
                *(
                    text
                    for part in ("nearest", "fit")
                    for text in (
                        f"{r[part]['here']:.3g}",
                        f"{r[part]['other']:.3g}",
                        f"{r[part]['times_faster']:.1f}",
                    )
                ),
                str(r["wrong_labels"]),
            )
            for r in records
        ),
    ]
