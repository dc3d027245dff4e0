"""Commands that are killed leave whole files or none, and whole lines.

A few kills at the worst moment, in the middle of writing the file, and some at moments
all along.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny

from gladjax import datasets, images, io

DRIVER = """
import os, time, tiny
from gladjax import backbone, cli
from gladjax.io import container

pour = container._pour

def slowly(file, value):
    file.write(b"x")
    file.flush()
    time.sleep(60)

if os.environ.get("STALL"):
    container._pour = slowly
backbone.load = lambda *a, **k: tiny.network()
cli.run()
"""

MOMENTS = 5
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    datasets.write_synthetic(root, num_train=8, num_good=60, num_bad=0, size=40)
    io.save(root / "model.safetensors", tiny.fitted(), false_positive_rate=0.1)
    return root


def start(arguments, *, stall=False, **options):
    extra = {"STALL": "1"} if stall else {}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        env={**ENVIRONMENT, **extra},
        stderr=subprocess.DEVNULL,
        **options,
    )


def fit_arguments(folder, out):
    return ["fit", folder / "texture" / "train", "--out", out, "--quiet",
            "--num-components", "3", "--calibration", "none"]  # fmt: skip


def score_arguments(folder, maps):
    good = folder / "texture" / "test" / "good"
    return ["score", folder / "model.safetensors", good, "--jsonl", "--quiet",
            "--heatmaps", maps]  # fmt: skip


def wait_for(condition, process, *, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended early: {process.returncode}"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def whole(path):
    """A model that loads, checksum and all."""
    return len(io.load(path, backbone=tiny.network()).layers) == 3


@pytest.mark.parametrize(
    ("number", "code", "old"),
    [
        (signal.SIGKILL, -signal.SIGKILL, True),
        (signal.SIGTERM, 143, False),
        (signal.SIGINT, 130, True),
    ],
)
def test_a_fit_killed_while_it_writes_leaves_the_old_file(
    folder, tmp_path, number, code, old
):
    out = tmp_path / "m.safetensors"
    before = (folder / "model.safetensors").read_bytes()
    if old:
        out.write_bytes(before)
    process = start(fit_arguments(folder, out), stall=True)

    def half_written():
        return any(p.stat().st_size > 100 for p in tmp_path.glob(".*.tmp"))

    wait_for(half_written, process)
    process.send_signal(number)
    assert process.wait(60) == code
    assert out.exists() == old
    if old:
        assert out.read_bytes() == before
    if number != signal.SIGKILL:  # Nothing is left behind either.
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"] * old


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_score_has_whole_lines_and_pictures(folder, tmp_path, number):
    maps, lines = tmp_path / "maps", tmp_path / "lines"
    with lines.open("wb") as file:
        process = start(score_arguments(folder, maps), stdout=file)
        wait_for(lambda: lines.stat().st_size > 1000, process)
        process.send_signal(number)
        process.wait(60)
    check_scores(lines, maps)
    found = lines.read_text().splitlines()
    assert 1 <= len(found) <= 60
    if number == signal.SIGTERM:
        assert process.returncode in (143, 0)
        assert not list(maps.rglob(".*"))


def check_scores(lines, maps):
    text = lines.read_text()
    assert text == "" or text.endswith("\n")
    for line in text.splitlines():
        found = json.loads(line)
        assert np.isfinite(found["score"])
        assert pathlib.Path(found["heat_map"]).is_file()
    for path in maps.rglob("*.png"):
        if not path.name.startswith("."):
            assert images.read(path).shape == (64, 84, 3)


@pytest.mark.slow
def test_a_fit_killed_at_any_moment(folder, tmp_path):
    begun = time.monotonic()
    assert start(fit_arguments(folder, tmp_path / "first")).wait(120) == 0
    took = time.monotonic() - begun
    finished = 0
    for number in range(MOMENTS):
        out = tmp_path / f"{number}.safetensors"
        process = start(fit_arguments(folder, out))
        time.sleep(number / (MOMENTS - 1) * 1.05 * took)
        signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        process.send_signal(signals[number % 3])
        process.wait(60)
        if out.exists():
            assert whole(out)
            finished += 1
    assert finished < MOMENTS


@pytest.mark.slow
def test_a_score_killed_at_any_moment(folder, tmp_path):
    begun = time.monotonic()
    first = start(score_arguments(folder, tmp_path / "first"), stdout=subprocess.PIPE)
    assert len(first.communicate(timeout=120)[0].splitlines()) == 60
    took = time.monotonic() - begun
    for number in range(MOMENTS):
        maps, lines = tmp_path / f"{number}", tmp_path / f"{number}.jsonl"
        with lines.open("wb") as file:
            process = start(score_arguments(folder, maps), stdout=file)
            time.sleep((0.3 + 0.75 * number / (MOMENTS - 1)) * took)
            signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
            process.send_signal(signals[number % 3])
            process.wait(60)
        check_scores(lines, maps)
