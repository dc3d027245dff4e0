"""Detectors as programs without this package."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from test_cli import run, tiny_network  # noqa: F401

from gladjax import backbone, calibrate, detector, export, images, io, outputs, scoring
from gladjax.export import graph, pixels, static

KNOWN = np.array([200.0 + 20 * i for i in range(19)], np.float32)


def calibrated(**chosen):
    return dataclasses.replace(tiny.fitted(**chosen), calibration=KNOWN)


def loaded(program):
    exported = jax.export.deserialize(bytearray(program))
    return exported, jax.jit(exported.call)


def near(score, other):
    return abs(score - other) <= 1e-3 + 1e-5 * abs(other)


def agrees(answer, fitted, image, *, rate=0.05, moved=0.0):
    """Whether a program says what the detector says; maps that move, nearly there."""
    size = fitted.backbone.image_size
    scored = detector.score(fitted, image, shape=size)
    decision = calibrate.decide(fitted.calibration, scored.score, rate=rate)
    np.testing.assert_allclose(
        answer["heat_map"], scored.heat_map, rtol=1e-5, atol=1e-3 + moved
    )
    assert near(float(answer["score"]), scored.score)
    assert float(answer["p_value"]) == pytest.approx(decision.p_value)
    assert bool(answer["is_anomalous"]) == decision.is_anomalous


# Pillow's resize


@pytest.fixture(scope="module")
def resized():
    height, width = jax.export.symbolic_shape("height, width")
    program = jax.export.export(jax.jit(lambda i: pixels.resize(i, (32, 24))))
    return program(jax.ShapeDtypeStruct((height, width, 3), np.uint8)).call


@pytest.mark.parametrize(
    "shape", [(32, 24), (1, 1), (7, 300), (300, 7), (31, 25), (64, 48), (517, 203)]
)
def test_levels_are_those_of_pillow(resized, rng, shape):
    for image in (
        rng.integers(0, 256, (*shape, 3)),
        255 * rng.integers(0, 2, (*shape, 3)),
    ):
        image = image.astype(np.uint8)
        expected = backbone.resize(image, size=(32, 24))
        np.testing.assert_array_equal(resized(image), expected)


def test_columns_come_first_whatever_the_version_of_pillow(rng):
    image = rng.integers(0, 256, (400, 40, 3)).astype(np.uint8)
    between = Image.fromarray(image).resize((24, 400), Image.Resampling.BILINEAR)
    expected = between.resize((24, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(backbone.resize(image, size=(32, 24)), expected)


# StableHLO


@pytest.fixture(scope="module")
def program():
    return export.stablehlo(calibrated())


def test_one_program_serves_all_sizes_and_platforms(program):
    exported, call = loaded(program)
    assert exported.platforms == export.PLATFORMS == ("cpu", "cuda", "rocm", "tpu")
    fitted = calibrated()
    for size, kind in ((40, "good"), (57, "scratch")):
        (image,) = tiny.pictures(1, kind=kind, first=30, size=size)
        agrees(call(image), fitted, image)


def test_an_aligned_image_is_scored_as_the_detector_scores_it():
    fitted = calibrated(motion="euclidean")
    assert fitted.reference is not None
    program = export.stablehlo(fitted, shape=(40, 40), platforms=("cpu",))
    _, call = loaded(program)
    for image in tiny.pictures(3, first=20):
        agrees(
            call(np.roll(image, (2, -1), (0, 1))),
            fitted,
            np.roll(image, (2, -1), (0, 1)),
            moved=0.01,  # Nats: the last thousandth of a pixel of a motion.
        )


def test_an_aligned_program_is_for_all_platforms():
    exported, _ = loaded(export.stablehlo(calibrated(motion="euclidean")))
    assert exported.platforms == export.PLATFORMS


def test_there_is_no_decision_that_the_calibration_does_not_bear():
    few = dataclasses.replace(tiny.fitted(), calibration=KNOWN)
    names = {
        rate: set(
            jax.export.deserialize(
                bytearray(export.stablehlo(few, rate=rate))
            ).out_tree.unflatten(range(n))
        )
        for rate, n in ((0.05, 4), (0.01, 3))
    }
    assert names[0.05] == {"score", "heat_map", "p_value", "is_anomalous"}
    assert names[0.01] == {"score", "heat_map", "p_value"}
    none = dataclasses.replace(few, calibration=None)
    exported, _ = loaded(export.stablehlo(none))
    assert set(exported.out_tree.unflatten(range(2))) == {"score", "heat_map"}


def test_a_score_that_is_none_has_no_p_value():
    nothing = np.zeros(tiny.fitted().mask.shape, bool)
    fitted = dataclasses.replace(calibrated(), mask=nothing)
    _, call = loaded(export.stablehlo(fitted, shape=(40, 40)))
    answer = call(tiny.pictures(1)[0])
    assert np.isnan(answer["score"])
    assert np.isnan(answer["p_value"])
    assert not answer["is_anomalous"]


ALONE = """
import sys
sys.modules["gladjax"] = sys.modules["flax"] = None
import jax, numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
answer = jax.jit(program.call)(np.load(sys.argv[2]))
print(float(answer["score"]), *answer["heat_map"].shape)
"""


def test_jax_alone_runs_it(program, tmp_path):
    (image,) = tiny.pictures(1, first=30)
    file, pixels_ = tmp_path / "model.stablehlo", tmp_path / "image.npy"
    file.write_bytes(program)
    np.save(pixels_, image)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, file, pixels_],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    score, *shape = done.stdout.split()
    assert near(float(score), detector.score(tiny.fitted(), image).score)
    assert shape == ["32", "32"]


@pytest.mark.parametrize("shape", [(0, 4), (3, -1)])
def test_shapes_that_are_none_are_refused(shape):
    with pytest.raises(ValueError, match="height and a width"):
        export.stablehlo(tiny.fitted(), shape=shape)


def test_rates_that_are_none_are_refused():
    with pytest.raises(ValueError, match="false-positive rate"):
        export.stablehlo(tiny.fitted(), rate=0.0)


@pytest.mark.parametrize("convert", [export.stablehlo, export.onnx])
def test_a_model_with_tiles_is_refused(convert):
    fitted = tiny.fitted()
    settings = dataclasses.replace(fitted.settings, tile_rows=2)
    with pytest.raises(ValueError, match="fit one without --tiles"):
        convert(dataclasses.replace(fitted, settings=settings))


# ONNX


def session(program):
    runtime = pytest.importorskip("onnxruntime")
    run_ = runtime.InferenceSession(program, providers=["CPUExecutionProvider"])
    names = [one.name for one in run_.get_outputs()]

    def call(image):
        return dict(zip(names, run_.run(None, {"image": image}), strict=True))

    return run_, call


@pytest.mark.parametrize("local", [True, False])
def test_maps_without_a_search_are_those_with_one(rng, local):
    fitted = tiny.fitted(local=local)
    for layer in fitted.layers.values():
        shape, d = layer.local_weights.shape, layer.mixture.means.shape[1]
        samples = rng.normal(size=(*shape, d)).astype(np.float32)
        found = static.log_prob(
            static.prepare(layer), jnp.asarray(samples.reshape(-1, d))
        )
        expected = scoring.log_prob_map(layer.mixture, layer.local_weights, samples)
        np.testing.assert_allclose(found.reshape(shape), expected, rtol=1e-5, atol=1e-3)


def test_a_position_without_components_is_impossible():
    layer = tiny.fitted().layers["fine"]
    addends = np.asarray(layer.prepared.addends).copy()
    addends[:, 3] = np.inf
    layer = dataclasses.replace(
        layer, prepared=layer.prepared._replace(addends=addends)
    )
    samples = jnp.zeros((addends.shape[1], layer.mixture.means.shape[1]))
    found = np.asarray(static.log_prob(static.prepare(layer), samples))
    assert np.flatnonzero(~np.isfinite(found)).tolist() == [3]
    assert found[3] == -np.inf


@pytest.mark.parametrize(
    "shape", [(32, 24), (1, 1), (7, 300), (400, 7), (31, 25), (517, 203)]
)
def test_levels_of_an_onnx_graph_are_those_of_pillow(rng, shape):
    onnx = pytest.importorskip("onnx")
    nodes = graph.Nodes(onnx, "resize/")
    levels = graph.resize(nodes, "image", (32, 24))
    make, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes.nodes,
            "resize",
            [make("image", kinds.UINT8, ["h", "w", 3])],
            [make(levels, kinds.FLOAT, [32, 24, 3])],
            nodes.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    _, call = session(model.SerializeToString())
    image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = backbone.resize(image, size=(32, 24))
    np.testing.assert_array_equal(call(image)[levels], expected)


def test_an_onnx_model_says_what_the_detector_says():
    pytest.importorskip("jax2onnx")
    fitted = calibrated()
    opened, call = session(export.onnx(fitted))
    (given,) = opened.get_inputs()
    assert (given.type, given.shape) == ("tensor(uint8)", ["height", "width", 3])
    for size, kind in ((40, "good"), (57, "scratch")):
        (image,) = tiny.pictures(1, kind=kind, first=30, size=size)
        agrees(call(image), fitted, image)


def test_an_onnx_model_of_what_is_aligned_is_refused():
    with pytest.raises(ValueError, match="aligns cannot be written as ONNX"):
        export.onnx(calibrated(motion="translation"))


def test_a_missing_converter_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r'pip install "gladjax\[onnx\]"'):
        export.onnx(tiny.fitted())


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    io.save(path, calibrated(), false_positive_rate=0.05)
    return path


def test_the_command_writes_one_file_and_replaces_its_own_only(model, tmp_path):
    target = tmp_path / "model.stablehlo"
    words = ("export", model, "--format", "stablehlo", "--output", target)
    code, out, err = run(*words)
    assert code == 0, err
    assert out.startswith(f"{target}: ")
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    assert outputs.written(target, outputs.STABLEHLO)
    (image,) = tiny.pictures(1, first=30, size=50)
    agrees(loaded(target.read_bytes())[1](image), calibrated(), image)
    code, _, err = run(*words, "--image-size", 40, 30)
    assert code == 0, err
    (kind,) = jax.export.deserialize(bytearray(target.read_bytes())).in_avals
    assert kind.shape == (40, 30, 3)
    assert not outputs.written(target, outputs.ONNX)
    target.write_text("mine")
    error, *_ = run(*words)
    assert "no StableHLO program that gladjax wrote" in str(error)
    assert target.read_text() == "mine"
    error, *_ = run(*words[:-1], model, "--force", "--image-size", 0, 1)
    assert error == 2
    assert outputs.written(model, outputs.MODEL)


def test_the_command_writes_onnx(model, tmp_path):
    pytest.importorskip("jax2onnx")
    target = tmp_path / "model.onnx"
    words = ("export", model, "--format", "onnx", "--out", target)
    for more in ([], ["--image-size", 40, 40]):
        code, _, err = run(*words, *more)
        assert code == 0, err
        assert outputs.written(target, outputs.ONNX)
    opened, _ = session(target.read_bytes())
    assert opened.get_inputs()[0].shape == [40, 40, 3]


# Real photographs


@pytest.fixture(scope="module")
def photographs(mvtec_root):
    """A detector of real photographs and 50 others."""
    folder = mvtec_root / "transistor"
    if not folder.is_dir():
        pytest.skip("no transistors here")
    good = sorted((folder / "train").rglob("*.png"))[:27]
    good = [images.photograph(path) for path in good]
    test = sorted((folder / "test").rglob("*.png"))[-50:]
    settings = detector.Settings(num_components=20, max_steps=3, max_samples=4096)
    network = backbone.load("efficientnet_lite0", image_size=(128, 128))
    fitted = detector.fit(jax.random.key(0), network, good[:8], settings=settings)
    known = [detector.score(fitted, image).score for image in good[8:]]
    fitted = dataclasses.replace(fitted, calibration=np.array(known))
    return fitted, [images.photograph(path) for path in test]


@pytest.mark.slow
def test_scores_of_50_real_images_are_those_of_the_detector(photographs):
    fitted, others = photographs
    assert len(others) == 50
    _, call = loaded(export.stablehlo(fitted))
    for image in others:
        agrees(call(image), fitted, image)


@pytest.mark.slow
def test_scores_of_50_real_images_are_those_of_the_detector_in_onnx(photographs):
    pytest.importorskip("jax2onnx")
    fitted, others = photographs
    _, call = session(export.onnx(fitted))
    for image in others:
        agrees(call(image), fitted, image)
