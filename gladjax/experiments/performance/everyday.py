"""What a user waits for: whole commands, cold and warm, beside PaDiM and PatchCore.

Each command runs in a process of its own; its wall time includes the interpreter's
start. Cold is the first run with an empty cache folder, or in one case with that of the
fit that wrote the model; warm is the median of the runs after it. The other systems are
fitted to the same features by the same steps (network, images, fit), without a
threshold.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gladjax import cache
from gladjax.experiments import runner
from gladjax.experiments.performance import timing

CASES = (("transistor", 30), ("toothbrush", 48), ("transistor", 213), ("screw", 320))
SCORED = 300
FIT = "gladjax fit, {}, {}"
FIRST = "gladjax score, one image, after the fit"
PEER = """
import sys
from gladjax import cache
cache.keep_programs()
import jax, numpy as np
from gladjax import backbone, features, images
from gladjax.baselines import padim, patchcore
network = backbone.load("efficientnet_lite0")
stream = features.stream(network, (images.read(path) for path in sys.argv[2:]))
parts = list(stream)
maps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
key = jax.random.key(0)
if sys.argv[1] == "padim":
    jax.block_until_ready(padim.fit(key, maps))
else:
    jax.block_until_ready(patchcore.fit(key, maps, coreset=0.01))
"""


def measure(root: Path, *, rounds: int) -> list[dict[str, Any]]:
    """Runs the commands.

    Args:
      root: Folder of MVTec AD.
      rounds: Warm runs of each command.

    Returns:
      One record for each command.

    Raises:
      ValueError: If a category is not there, or a command fails.
    """
    records = []
    with tempfile.TemporaryDirectory() as name, runner.Bar("everyday") as bar:
        folder = Path(name)
        work = _commands(root, folder)
        for number, (what, command) in enumerate(work):
            # A model is scored first where it was fitted.
            kept = folder / (
                "fitted" if what in (FIT.format(*CASES[-1]), FIRST) else f"{number}"
            )
            runs = [_run(command, kept) for _ in range(1 + rounds)]
            records.append(
                {
                    "command": what,
                    "cold": runs[0]["seconds"],
                    "warm": statistics.median(run["seconds"] for run in runs[1:]),
                    "rounds": rounds,
                    "peak_gib": max(run["peak_gib"] for run in runs),
                }
            )
            bar("commands", number + 1, len(work))
    return records


def _commands(root: Path, folder: Path) -> list[tuple[str, list[str]]]:
    """Returns what is run, by name; later commands use models of earlier ones."""
    gladjax = [sys.executable, "-m", "gladjax"]
    work = [("gladjax --help", [*gladjax, "--help"])]
    for category, limit in CASES:
        train = sorted((root / category / "train" / "good").glob("*"))[:limit]
        if len(train) < limit:
            raise ValueError(f"{root}: {category} has {len(train)} images, not {limit}")
        paths = [str(path) for path in train]
        model = str(folder / f"{category}{limit}.safetensors")
        fit = [*gladjax, "fit", *paths, "--out", model, "--quiet", "--force"]
        work.append((FIT.format(category, limit), fit))
        for peer in ("padim", "patchcore"):
            command = [sys.executable, "-c", PEER, peer, *paths]
            work.append((f"{peer}, {category}, {limit}", command))
    category, limit = CASES[-1]
    model = str(folder / f"{category}{limit}.safetensors")
    parts = "test/*/*.png", "train/*/*.png"
    own = [path for part in parts for path in sorted((root / category).glob(part))]
    folders = {f"{category}s": own, "of all kinds": sorted(root.glob("*/test/*/*.png"))}
    score = [*gladjax, "score", model, "--force", "--quiet"]
    one = [*score, str(own[0])]
    work += [(FIRST, one), ("gladjax score, one image", one)]
    for kind, found in folders.items():
        paths = [str(path) for path in found[:SCORED]]
        what = f"gladjax score, {len(paths)} {kind}"
        maps = ["--heatmaps", str(folder / "maps")]
        work.append((what, [*score, *paths]))
        work.append((f"{what}, heat maps", [*score, *maps, *paths]))
    demo = str(folder / "demo")
    work.append(("gladjax demo", [*gladjax, "demo", "--output", demo, "--force"]))
    return work


def _run(command: list[str], kept: Path) -> dict[str, float]:
    """Runs a command with a cache folder."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            env=timing.environment(**{cache.VARIABLE: str(kept)}),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace")[-2000:]
            raise ValueError(f"{' '.join(command[:5])} ...: {words}")
    return {"seconds": seconds, "peak_gib": _gib(usage)}


def _gib(usage: resource.struct_rusage) -> float:
    """Returns the largest memory of a process; kilobytes in Linux, bytes in macOS."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the table.

    Args:
      records: From `measure`.
    """
    return [
        ("command", "first run, s", "later, s", "peak GiB"),
        *(
            (
                r["command"],
                f"{r['cold']:.1f}",
                f"{r['warm']:.1f}",
                f"{r['peak_gib']:.2f}",
            )
            for r in records
        ),
    ]
