"""What a backbone is: preprocessing, the door for any network, names, folding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden.backbone import rule
from PIL import Image
from quick import quick

from gladjax import backbone, features
from gladjax.backbone import entries, layers, matching, winograd


def tiny(weights, images):
    """A network of one product, as a user might bring it."""
    maps = jnp.tensordot(images[:, ::4, ::4], weights["kernel"], axes=1)
    return {"fine": maps, "coarse": maps[:, ::2, ::2], "flat": maps[0]}


WEIGHTS = {"kernel": np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5)}


def wrap(**keywords):
    settings = {"name": "mine", "layers": ("fine", "coarse"), "image_size": (32, 24)}
    return backbone.from_function(tiny, WEIGHTS, **(settings | keywords))


# Preprocessing.


@pytest.mark.parametrize("shape", [(50, 70), (16, 9), (32, 90)])
def test_8_bit_images_are_resized_as_pillow_resizes_them(shape):
    net = wrap(offset=(10.0, 20.0, 30.0), scale=(2.0, 4.0, 8.0))
    image = rule.photograph(*shape)
    resized = Image.fromarray(image).resize((24, 32), Image.Resampling.BILINEAR)
    expected = (np.asarray(resized, np.float32) - [10, 20, 30]) / [2, 4, 8]
    found = backbone.preprocess(net, image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[None], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_other_images_are_resized_channel_by_channel_without_rounding(dtype):
    net = wrap(scale=(1.0, 1.0, 1.0))
    image = rule.photograph(50, 70)
    found = backbone.preprocess(net, image.astype(dtype))[0]
    for c in range(3):
        channel = Image.fromarray(image[..., c].astype(np.float32))
        expected = channel.resize((24, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found[..., c], np.asarray(expected))
    rounded = backbone.preprocess(net, image)[0]
    assert np.abs(found - rounded).max() <= 1.0
    assert np.any(found != np.round(found))


def test_shrinking_is_antialiased():
    """A fine chequered pattern becomes grey, not black or white."""
    board = np.indices((256, 240)).sum(0) % 2 * 255.0
    net = wrap(scale=(1.0, 1.0, 1.0))
    found = backbone.preprocess(net, np.repeat(board[..., None], 3, 2))
    np.testing.assert_allclose(found, 127.5, atol=3.0)


def test_a_fitting_image_is_not_resampled():
    net = wrap(scale=(1.0, 1.0, 1.0))
    image = np.random.default_rng(0).uniform(0, 255, (32, 24, 3)).astype(np.float32)
    np.testing.assert_array_equal(backbone.preprocess(net, image)[0], image)
    assert backbone.resize(image, size=(32, 24)) is image


def test_one_image_a_batch_and_a_list_agree():
    net = wrap()
    batch = np.stack([rule.photograph(40, 30), rule.photograph(40, 30)[::-1]])
    found = backbone.preprocess(net, batch)
    assert found.shape == (2, 32, 24, 3)
    np.testing.assert_array_equal(backbone.preprocess(net, list(batch)), found)
    np.testing.assert_array_equal(backbone.preprocess(net, batch[1]), found[1:])
    np.testing.assert_array_equal(backbone.preprocess(net, jnp.asarray(batch)), found)
    mixed = [batch[0], rule.photograph(20, 80)]
    np.testing.assert_array_equal(backbone.preprocess(net, mixed)[0], found[0])
    assert backbone.preprocess(net, []).shape == (0, 32, 24, 3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 4), (0, 8, 3)])
def test_what_is_no_rgb_image_is_refused(shape):
    with pytest.raises(ValueError, match="must have shape"):
        backbone.preprocess(wrap(), [np.zeros(shape, np.uint8)])


def test_normalise_is_preprocess_without_resizing(variant):
    net = wrap(offset=(1.0, 2.0, 3.0), scale=(3.0, 2.0, 1.0))
    image = rule.photograph(32, 24)
    expected = backbone.preprocess(net, image)[0]
    for dtype in (jnp.uint8, jnp.float32):
        found = variant(backbone.normalise)(net, jnp.asarray(image, dtype))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == jnp.float32


# Any network.


def test_any_function_is_a_backbone():
    net = wrap()
    assert (net.layers, net.dims) == (("fine", "coarse"), (5, 5))
    maps = features.extract(net, backbone.preprocess(net, rule.photograph(40, 30)))
    assert {name: value.shape for name, value in maps.items()} == {
        "fine": (1, 8, 6, 5),
        "coarse": (1, 4, 3, 5),
    }


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "efficientnet_lite1", "efficientnet_lite0_wide"]
)
def test_channels_that_are_known_are_those_of_the_maps(name):
    known = entries.entry(name)
    traced = backbone.random(jax.random.key(0), name).dims
    assert known.family.dims(known.spec) == traced


@pytest.mark.parametrize("layer", ["nowhere", "flat"])
def test_a_function_must_give_the_maps_it_names(layer):
    with pytest.raises(ValueError, match=rf"no \(n, h, w, d\) map named '{layer}'"):
        wrap(layers=("fine", layer))


def test_weights_are_leaves_and_the_rest_is_structure():
    net = wrap()
    assert jax.tree.leaves(net) == jax.tree.leaves(net.weights)
    other = wrap(scale=(1.0, 1.0, 1.0))
    assert jax.tree.structure(net) != jax.tree.structure(other)
    assert hash(jax.tree.structure(net)) == hash(jax.tree.structure(wrap()))


# Named networks.


def test_two_backbones_of_one_architecture_share_a_program():
    traced = []

    @jax.jit
    def run(net, images):
        traced.append(net.name)
        return features.extract(net, images)["layer1"]

    images = jnp.zeros((1, 32, 32, 3))
    nets = [backbone.random(jax.random.key(seed), "resnet18") for seed in (0, 1)]
    maps = [run(net, images + 1.0) for net in nets]
    assert len(traced) == 1
    assert float(jnp.abs(maps[0] - maps[1]).max()) > 0.1


def test_random_weights_say_so_and_follow_the_key():
    nets = [backbone.random(jax.random.key(seed), "resnet18") for seed in (3, 3, 4)]
    assert {net.name for net in nets} == {"random:resnet18"}
    assert {(net.sha256, net.licence) for net in nets} == {("", "none")}
    leaves = [np.asarray(net.weights["stem"]["kernel"]) for net in nets]
    np.testing.assert_array_equal(leaves[0], leaves[1])
    assert np.any(leaves[0] != leaves[2])
    with pytest.raises(ValueError, match="no backbone named 'random:resnet18'"):
        backbone.load("random:resnet18")


def test_calibration_standardises_every_batch_norm():
    """Means and variances of the convolutions' outputs, layer after layer."""
    images = jnp.asarray(rule.images(32, 48))
    net = backbone.random(jax.random.key(0), "resnet18", images=images, folded=False)
    again = backbone.calibrate_batch_norm(net, images)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        net.weights,
        again.weights,
    )
    stem = net.weights["stem"]
    raw = layers.convolve(images, stem["kernel"], stride=2, pads=((3, 3), (3, 3)))
    np.testing.assert_allclose(stem["mean"], raw.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(stem["variance"], raw.var((0, 1, 2)), rtol=1e-4)
    maps = quick(features.extract)(backbone.fold(net), images)
    assert all(0.1 < float(value.std()) < 10.0 for value in maps.values())
    with pytest.raises(ValueError, match="no batch norms left"):
        backbone.calibrate_batch_norm(backbone.fold(net), images)


def test_folding_is_exact(rng):
    """In float64, up to rounding; with a variance of 0, too."""
    layer = {
        "kernel": rng.normal(size=(3, 3, 4, 5)),
        "scale": rng.normal(size=5),
        "offset": rng.normal(size=5),
        "mean": rng.normal(size=5),
        "variance": np.array([0.0, 1e-9, 1.0, 2.0, 1e6]),
    }
    folded = matching.fold_layer(layer, 1e-5)
    x = rng.normal(size=(3, 3, 4))
    raw = np.einsum("ijc,ijcd->d", x, layer["kernel"])
    normed = (raw - layer["mean"]) / np.sqrt(layer["variance"] + 1e-5)
    expected = normed * layer["scale"] + layer["offset"]
    found = np.einsum("ijc,ijcd->d", x, folded["kernel"]) + folded["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert set(folded) == {"kernel", "bias"}


def test_a_folded_backbone_stays_as_it_is_and_a_stranger_is_refused():
    net = backbone.random(jax.random.key(0), "resnet18")
    assert backbone.fold(net) is net
    for function in (backbone.fold, lambda b: backbone.classify(b, rule.images(9, 9))):
        with pytest.raises(ValueError, match="mine is no network of"):
            function(wrap())


def test_without_its_head_a_network_does_not_classify():
    net = backbone.random(jax.random.key(0), "resnet18")
    with pytest.raises(ValueError, match=r"without its head \(head=True\)"):
        backbone.classify(net, rule.images(32, 32))


def test_folded_backbones_hold_no_statistics():
    net = backbone.random(jax.random.key(0), "resnet18")
    flat = traverse_util.flatten_dict(net.weights, sep="/")
    kinds = {path.rpartition("/")[2] for path in flat}
    assert {kind.rstrip("0123") for kind in kinds} == {"kernel", "bias", "winograd"}
    assert not any(path.startswith("stage4") for path in flat)


def test_image_size_and_dtype_can_be_chosen():
    net = backbone.load("efficientnet_lite0", image_size=(96, 64))
    assert backbone.preprocess(net, rule.photograph(50, 50)).shape == (1, 96, 64, 3)
    half = backbone.astype(net, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    assert half.sha256 == net.sha256


def test_the_hash_is_of_names_shapes_and_float32_values():
    state = {"b": np.arange(6.0).reshape(2, 3), "a": np.float32([1, 2])}
    known = backbone.content_hash(state)
    same = {"a": np.float64([1, 2]), "b": np.asfortranarray(state["b"])}
    assert backbone.content_hash(same) == known
    for other in (
        {**state, "a": np.float32([1, np.nextafter(np.float32(2), np.float32(3))])},
        {**state, "b": state["b"].reshape(3, 2)},
        {"b": state["b"], "c": state["a"]},
    ):
        assert backbone.content_hash(other) != known


def test_a_table_that_is_no_bijection_is_a_programming_error():
    abstract = {"x": {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)}}
    with pytest.raises(AssertionError, match="table of names"):
        matching.check(abstract, {"x/bias": "w"}, {})


def test_paths_and_nested_weights_are_the_same():
    nested = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    flat = {"a/b/c": 1, "a/b/d": 2, "a/e": 3, "f": 4}
    assert matching.flat(nested) == flat == traverse_util.flatten_dict(nested, sep="/")
    assert matching.nested(flat) == nested


def test_entries_are_plain_data():
    known = backbone.entry("wide_resnet50_2")
    assert dataclasses.asdict(known)["sha256"] == "02a183f7"
    assert hash(known) == hash(backbone.entry("wide_resnet50_2"))
    with pytest.raises(ValueError, match="efficientnet_lite0"):
        backbone.entry("efficientnet_lite0_lpf3")


@pytest.mark.parametrize("shape", [(6, 8), (7, 5), (1, 2)])
def test_winograd_is_the_convolution(shape, rng, x64):
    """In float64 up to rounding, at even and odd sizes; and the kernel comes back."""
    x = jnp.asarray(rng.normal(size=(2, *shape, 3)))
    kernel = rng.normal(size=(3, 3, 3, 4))
    matrices = [jnp.asarray(each) for each in winograd.transform(kernel)]
    expected = layers.convolve(x, jnp.asarray(kernel), pads=((1, 1), (1, 1)))
    found = winograd.convolve(x, matrices)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(winograd.recover(matrices), kernel, atol=1e-14)


def test_single_images_and_batches_agree():
    """The former take Winograd's way where there is one, the latter never."""
    net = backbone.random(jax.random.key(0), "resnet18", images=rule.images(64, 48))
    if jax.default_backend() == "cpu":
        assert "winograd00" in net.weights["stage1_0"]["conv1"]
    image = rule.images(50, 62)
    one = quick(features.extract)(net, image)
    two = quick(features.extract)(net, np.concatenate([image, image]))
    for layer, value in one.items():
        scale = float(jnp.abs(value).max())
        for found in two[layer]:
            assert float(jnp.abs(found - value[0]).max()) < 5e-6 * scale
