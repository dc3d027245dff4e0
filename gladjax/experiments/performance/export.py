"""A model beside the programs that it is exported as: time, size, agreement.

One model is fitted and exported by the command line. Each way to score with it runs in
processes of its own, the exported programs without this package: the first one with an
empty folder of compiled programs, then again with what that one kept. The first answer
is timed from the start of the process, the others by what comes between two answers of
a command, and else by the call alone, the image being read before. Scores are compared
with those that ``gladjax score`` prints.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gladjax import datasets
from gladjax.experiments import runner
from gladjax.experiments.performance import timing

CATEGORY, LEARNT, SCORED = "transistor", 60, 50
ABSOLUTE, RELATIVE = 1e-3, 1e-5  # What scores may differ by.
GLADJAX = [sys.executable, "-m", "gladjax"]
DETECTOR = """
from gladjax import detector, io
fitted = io.load(sys.argv[1])
def score(image):
    return detector.score(fitted, image, shape=fitted.backbone.image_size).score
"""
STABLEHLO = """
sys.modules["gladjax"] = None
import jax
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
call = jax.jit(program.call)
def score(image):
    return jax.block_until_ready(call(image))["score"]
"""
ONNX = """
sys.modules["gladjax"] = None
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
names = [one.name for one in session.get_outputs()]
def score(image):
    return dict(zip(names, session.run(None, {"image": image})))["score"]
"""
HEAD = "import json, sys, time\nimport numpy as np\nfrom PIL import Image\n"
TAIL = """
for path in sys.argv[2:]:
    image = np.asarray(Image.open(path).convert("RGB"))
    begun = time.perf_counter()
    found = {"score": float(score(image))}
    found["seconds"] = time.perf_counter() - begun
    print(json.dumps(found), flush=True)
"""


class Way(NamedTuple):
    """A way to score.

    Attributes:
      name: What the table calls it.
      file: What it reads, besides images.
      command: What is run; None where it needs what is not installed.
    """

    name: str
    file: Path
    command: list[str] | None


class Run(NamedTuple):
    """What a process answered.

    Attributes:
      scores: Of the images.
      first: Seconds from the start of the process to the first answer.
      later: Seconds of each of the others.
      all: Seconds to the end of the process.
    """

    scores: list[float]
    first: float
    later: list[float]
    all: float


def measure(
    root: Path | None, *, rounds: int, options: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Fits a model, exports it, and scores with all of it.

    Args:
      root: Folder of MVTec AD; None for drawn images.
      rounds: Runs of each way after the first one.
      options: More words of ``gladjax fit``.

    Returns:
      One record for each way.

    Raises:
      ValueError: If images are not there, or a command fails.
    """
    with tempfile.TemporaryDirectory() as name, runner.Bar("export") as bar:
        folder = Path(name)
        good, others = _images(root, folder)
        model = folder / "model.safetensors"
        fit = [*GLADJAX, "fit", *good, "--out", str(model), "--quiet", *options]
        run(fit, folder / "programs")
        ways = _ways(model, others)
        expected, records = None, []
        for number, way in enumerate(ways):
            records.append(
                record(
                    way,
                    folder / f"programs{number}",
                    rounds=rounds,
                    expected=expected,
                )
            )
            expected = records[0]["scores"]
            bar("ways", number + 1, len(ways))
    return records


def _images(root: Path | None, folder: Path) -> tuple[list[str], list[str]]:
    """Returns normal images and others, of all kinds."""
    if root is None:
        counts = {"num_train": LEARNT, "num_good": SCORED // 2, "num_bad": SCORED // 6}
        datasets.write_synthetic(folder, category="plate", size=256, **counts)
    place = folder / "plate" if root is None else root / CATEGORY
    good = sorted((place / "train" / "good").glob("*"))[:LEARNT]
    others = sorted((place / "test").glob("*/*.png"))
    if len(good) < LEARNT or not others:
        raise ValueError(f"{place}: not {LEARNT} images in train/good, or none in test")
    chosen = np.linspace(0, len(others) - 1, min(SCORED, len(others))).astype(int)
    return [str(path) for path in good], [str(others[i]) for i in chosen]


def _ways(model: Path, images: list[str]) -> list[Way]:
    """Exports a model, and returns the ways to score with it.

    The first one says what the scores are.
    """
    command = [*GLADJAX, "score", str(model), "--jsonl", "--quiet"]
    ways = [
        Way(f"gladjax score, {len(images)} images", model, [*command, *images]),
        Way("gladjax score, one image", model, [*command, images[0]]),
        Way("detector.score", model, script(DETECTOR, model, images)),
    ]
    formats = (("StableHLO", STABLEHLO, "flatbuffers"), ("ONNX", ONNX, "jax2onnx"))
    for name, code, needed in formats:
        file, words = model.with_suffix(f".{name.lower()}"), None
        if importlib.util.find_spec(needed) is not None:
            options = ["--format", name.lower(), "--out", str(file)]
            run([*GLADJAX, "export", str(model), *options], model.parent / "programs")
            words = script(code, file, images)
        ways.append(Way(name, file, words))
    return ways


def script(code: str, file: Path, images: Sequence[str]) -> list[str]:
    """Returns a command that scores images by a script.

    Args:
      code: `DETECTOR`, `STABLEHLO` or `ONNX`.
      file: What it reads.
      images: 8-bit images.
    """
    return [sys.executable, "-c", HEAD + code + TAIL, str(file), *images]


def record(
    way: Way, kept: Path, *, rounds: int, expected: Sequence[float] | None = None
) -> dict[str, Any]:
    """Runs a way, and compares its scores with others.

    Args:
      way: The way.
      kept: Folder of compiled programs, empty before.
      rounds: Runs after the first one.
      expected: Scores of these images, and perhaps of more; None to take its own.

    Raises:
      ValueError: If it fails.
    """
    if way.command is None:
        return {"way": way.name, "note": "not installed"}
    runs = [run(way.command, kept) for _ in range(1 + rounds)]
    again = runs[1:] or runs
    scores = np.array([one.scores for one in runs])
    right = scores[0] if expected is None else np.array(expected[: scores.shape[1]])
    apart = np.abs(scores - right)
    later = [seconds for one in again for seconds in one.later]
    return {
        "way": way.name,
        "bytes": way.file.stat().st_size,
        "images": scores.shape[1],
        "rounds": rounds,
        "first_answer_cold": runs[0].first,
        "first_answer": statistics.median(one.first for one in again),
        "per_image": statistics.median(later) if later else None,
        "all": statistics.median(one.all for one in again),
        "largest_difference": float(apart.max()),
        "within": bool((apart <= ABSOLUTE + RELATIVE * np.abs(right)).all()),
        "scores": runs[0].scores,
    }


def run(command: Sequence[str], kept: Path) -> Run:
    """Runs a command that prints a JSON object for every image, if it scores.

    Args:
      command: The command.
      kept: Folder of compiled programs.

    Raises:
      ValueError: If it fails.
    """
    known = {
        "JAX_COMPILATION_CACHE_DIR": str(kept),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    begun = time.perf_counter()
    stamps, found = [begun], []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            env=timing.environment(**known),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        with process:
            for line in process.stdout or ():
                if line.startswith("{"):
                    stamps.append(time.perf_counter())
                    found.append(json.loads(line))
        whole = time.perf_counter() - begun
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace")[-2000:]
            raise ValueError(f"{' '.join(command[:5])} ...: {words}")
    apart = np.diff(stamps).tolist()
    later = [one.get("seconds", apart[i]) for i, one in enumerate(found)][1:]
    first = apart[0] if found else whole
    return Run([one["score"] for one in found], first, later, whole)


def rows(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Returns the table.

    Args:
      records: From `measure`.
    """
    lines = [["way", "MB", "first answer, s", "again, s", "then ms an image", "all, s"]]
    lines[0] += ["largest difference", "within 1e-3 + 1e-5 score"]
    for r in records:
        if "note" in r:
            lines.append([r["way"], r["note"], *[""] * 6])
            continue
        later = "" if r["per_image"] is None else f"{1e3 * r['per_image']:.0f}"
        times = [r["first_answer_cold"], r["first_answer"]]
        cells = [r["way"], f"{r['bytes'] / 1e6:.1f}", *(f"{t:.1f}" for t in times)]
        cells += [later, f"{r['all']:.1f}", f"{r['largest_difference']:.1g}"]
        lines.append([*cells, "yes" if r["within"] else "no"])
    return lines
