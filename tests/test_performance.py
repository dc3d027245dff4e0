"""The measurements of speed run, on few samples, and measure what they say."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gladjax import detector, images, kmle
from gladjax import export as exporting
from gladjax.experiments.performance import (
    __main__,
    assignment,
    everyday,
    export,
    growth,
    out_of_core,
    peers,
    timing,
)


def run(tmp_path, table, *options):
    __main__.main([table, "--output", str(tmp_path), *options])
    assert (tmp_path / f"{table}.md").read_text().startswith("| ")
    return json.loads((tmp_path / f"{table}.json").read_text())


@pytest.fixture
def few_features(monkeypatch):
    """Features of one solar cell instead of three hundred."""

    def draw(name, layer, *, limit):
        rng = np.random.default_rng(0)
        width = {"efficientnet_lite0": 12}.get(name, 20)
        mixed = rng.normal(size=(limit, width)) * np.arange(1, width + 1) ** -0.5
        return (mixed + rng.integers(0, 4, (limit, 1))).astype(np.float32)

    monkeypatch.setattr(timing, "solar_cells", draw)
    monkeypatch.setattr(timing, "matrix_peak", lambda: 100.0)


def test_assignment_finds_no_label_unlike_the_dense_argmin(tmp_path, few_features):
    options = ("--widths", "112", "--samples", "600", "--components", "12")
    (record,) = run(tmp_path, "assignment", *options)
    assert record["unlike_float64"] == record["of_them_ties"] == 0
    assert record["unlike_dense_float32"] == 0
    assert record["checked_in_float64"] == 600
    assert record["least_margin"] >= 0
    assert 1 <= record["full_costs_per_sample"] <= 12 + 1


def test_growth_and_its_figure(tmp_path, few_features):
    largest = {"samples": 400, "components": 8, "features": 16}
    record = growth.measure("samples", largest=largest)
    assert record["axis"] == "samples"
    assert record["sizes"] == [50, 100, 200, 400]
    assert record["others"] == {"components": 8, "features": 16}
    growth.figure([record]).savefig(tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()
    assert len(growth.rows([record])) == 2


def test_all_systems_reach_a_likelihood_of_one_kind(few_features):
    records = {r["system"]: r for r in peers.measure(num_samples=400, num_components=4)}
    ours, theirs = records["gladjax EM"], records["scikit-learn"]
    assert abs(ours["log_likelihood"] - theirs["log_likelihood"]) < 0.5
    kmle_ = records["gladjax K-MLE"]
    assert abs(kmle_["held_out"] - theirs["held_out"]) < 1
    assert len(peers.rows(list(records.values()))) == len(records) + 1


def test_a_file_of_features_is_fitted(tmp_path, monkeypatch):
    record = run(tmp_path, "out_of_core", "--images", "1")
    assert record["file_bytes"] >= 4096 * 256 * 4
    assert record["num_components"] == 16
    assert record["peak_bytes_beside_the_map"] >= record["bytes_before"] > 0
    assert np.diff(record["log_likelihood"])[0] > -1e-3


def test_the_baseline_is_the_argmin():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32) + rng.integers(0, 3, (300, 1))
    fitted, _ = kmle.fit(jax.random.key(0), x, num_components=5, max_steps=2)
    fitted = jax.tree.map(np.asarray, fitted)
    constants = fitted.log_dets - 2 * fitted.log_weights
    roots = timing.whitening(fitted)
    labels, cost = timing.dense_argmin(roots, fitted.means, constants, x)
    exact, least = timing.two_least(fitted, x)
    np.testing.assert_array_equal(labels, exact)
    np.testing.assert_allclose(cost, least[:, 0], rtol=1e-3)
    assert assignment.TIE < 1e-3


def test_anonymous_memory_grows_with_an_array():
    before = out_of_core.anonymous()
    held = np.ones(1 << 25)
    assert out_of_core.anonymous() - before > 0.9 * held.nbytes


def test_whole_commands_are_timed_first_and_later(tmp_path, monkeypatch):
    held = "import os; held = bytearray(1 << 28); print(os.environ['GLADJAX_CACHE'])"
    work = [("holds", [sys.executable, "-c", held])]
    monkeypatch.setattr(everyday, "_commands", lambda root, folder: work)
    options = ("--data-root", str(tmp_path), "--rounds", "2")
    (record,) = run(tmp_path, "everyday", *options)
    assert record["peak_gib"] > 0.25
    assert record["cold"] > 0
    assert record["warm"] > 0
    work[:] = [("fails", [sys.executable, "-c", "raise SystemExit('no such thing')"])]
    with pytest.raises(ValueError, match="no such thing"):
        everyday.measure(tmp_path, rounds=1)


def test_everyday_commands_need_their_images(tmp_path):
    with pytest.raises(ValueError, match="has 0 images, not 30"):
        everyday.measure(tmp_path, rounds=1)


MEAN = "def score(image):\n    return image.mean()"
COMMANDS = """
import json, sys
import numpy as np
from PIL import Image
if "--out" in sys.argv:
    open(sys.argv[sys.argv.index("--out") + 1], "w").write("written")
for path in sys.argv[3:] if sys.argv[1] == "score" else []:
    if path.endswith(".png"):
        print(json.dumps({"score": float(np.asarray(Image.open(path)).mean())}))
"""


def test_exported_programs_stand_beside_the_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LEARNT", 3)
    monkeypatch.setattr(export, "SCORED", 6)
    monkeypatch.setattr(export, "GLADJAX", [sys.executable, "-c", COMMANDS])
    monkeypatch.setattr(export, "DETECTOR", MEAN)
    monkeypatch.setattr(export, "STABLEHLO", MEAN + " + 0.01")
    there = {"flatbuffers": object()}
    monkeypatch.setattr(export.importlib.util, "find_spec", there.get)
    records = run(tmp_path, "export", "--rounds", "1")
    many, one, inside, stablehlo, onnx = records
    assert [r["way"] for r in records[:2]] == [
        "gladjax score, 6 images",
        "gladjax score, one image",
    ]
    assert (many["images"], one["images"]) == (6, 1)
    assert len(set(many["scores"])) == 6
    for record in (many, one, inside):
        assert record["largest_difference"] == 0
        assert record["within"]
        assert 0 < record["first_answer"] <= record["all"]
    assert one["per_image"] is None
    assert 0 < inside["per_image"] < inside["first_answer"]
    assert stablehlo["largest_difference"] == pytest.approx(0.01, rel=1e-6)
    assert not stablehlo["within"]
    assert onnx == {"way": "ONNX", "note": "not installed"}
    assert "| not installed |" in (tmp_path / "export.md").read_text()
    monkeypatch.setattr(export, "DETECTOR", "raise SystemExit('no such thing')")
    with pytest.raises(ValueError, match="no such thing"):
        export.measure(None, rounds=0)


def test_exported_programs_need_their_images(tmp_path):
    with pytest.raises(ValueError, match="not 60 images"):
        export.measure(tmp_path, rounds=1)


def runs_as_measured(folder, form, program, score):
    """Whether a script scores as a function does."""
    pictures = tiny.pictures(3, first=30)
    file = folder / f"model.{form}"
    file.write_bytes(program)
    paths = [str(folder / f"{i}.png") for i in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        images.write_png(path, picture)
    command = export.script(getattr(export, form.upper()), file, paths)
    expected = [float(score(one)) for one in pictures]
    way = export.Way(form, file, command)
    record = export.record(way, folder, rounds=0, expected=expected)
    assert record["within"], record
    assert (record["images"], record["bytes"]) == (3, len(program))


def test_stablehlo_programs_run_as_they_are_measured(tmp_path):
    def program(image):
        return {"score": jnp.mean(image.astype(jnp.float32))}

    kind = jax.ShapeDtypeStruct((40, 40, 3), np.uint8)
    exported = jax.export.export(jax.jit(program))(kind).serialize()
    runs_as_measured(tmp_path, "stablehlo", exported, np.mean)


def test_onnx_models_run_as_they_are_measured(tmp_path):
    pytest.importorskip("jax2onnx")
    fitted = tiny.fitted()
    program = exporting.onnx(fitted, shape=(40, 40))
    score = lambda image: detector.score(fitted, image).score  # noqa: E731
    runs_as_measured(tmp_path, "onnx", program, score)
