"""Feature extraction as a pure function, and the loop around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.backbone import rule
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from quick import quick

from gladjax import backbone, features

SIZE = (64, 48)


@pytest.fixture(scope="module")
def images():
    """Eleven raw images of three sizes."""
    sizes = ((64, 48), (80, 50), (31, 97))
    return [np.roll(rule.photograph(*sizes[i % 3]), 7 * i, 1) for i in range(11)]


@pytest.fixture(scope="module")
def net():
    return backbone.load("efficientnet_lite0", image_size=SIZE)


@pytest.fixture(scope="module")
def residual():
    """Small, anti-aliased, with calibrated statistics."""
    calibration = rule.images(*SIZE)
    return backbone.random(
        jax.random.key(0), "resnet18", images=calibration, image_size=SIZE
    )


@pytest.fixture(scope="module", params=["lite", "residual"])
def each(request, net, residual):
    return net if request.param == "lite" else residual


@pytest.fixture(scope="module")
def batch(net, images):
    return jnp.asarray(backbone.preprocess(net, images[:8]))


def close(found, expected, tolerance=2e-6):
    """Agreement relative to the largest value of each map."""
    assert set(found) == set(expected)
    for layer, value in expected.items():
        value = np.asarray(value, np.float64)
        error = np.abs(np.asarray(found[layer], np.float64) - value).max()
        assert error <= tolerance * np.abs(value).max(), layer


@pytest.fixture(scope="module")
def expected(each, batch):
    return quick(features.extract)(each, batch)


def test_vmap_is_the_batch(each, batch, expected):
    def one(image):
        return jax.tree.map(lambda m: m[0], features.extract(each, image[None]))

    close(quick(jax.vmap(one))(batch), expected)


def test_the_order_in_the_batch_does_not_matter(each, batch, expected):
    found = quick(features.extract)(each, batch[::-1])
    close({layer: value[::-1] for layer, value in found.items()}, expected)


def test_one_image_after_the_other_gives_the_same(each, batch, expected):
    close(quick(features.extract_each)(each, batch), expected, 5e-6)


def test_shapes_are_known_without_computing(each, batch, expected):
    shapes = jax.eval_shape(features.extract, each, batch)
    for layer, shape in features.shapes(each).items():
        assert shapes[layer].shape == expected[layer].shape == (8, *shape)
        assert shapes[layer].dtype == expected[layer].dtype == jnp.float32


def test_the_batch_may_be_sharded(each, batch, expected):
    if jax.device_count() < 8:
        pytest.skip("needs eight devices (XLA_FLAGS, see conftest.py)")
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("batch",))
    over = NamedSharding(mesh, PartitionSpec("batch"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    found = quick(features.extract)(
        jax.device_put(each, everywhere), jax.device_put(batch, over)
    )
    for value in found.values():
        assert value.sharding.is_equivalent_to(over, value.ndim)
        assert value.addressable_shards[0].data.shape[0] == 1
    close(found, expected)


def test_bfloat16_inference_is_near(each, batch, expected):
    half = backbone.astype(each, jnp.bfloat16)
    found = quick(features.extract)(half, batch)
    for layer, value in expected.items():
        assert found[layer].dtype == jnp.bfloat16
        difference = np.asarray(found[layer], np.float32) - np.asarray(value)
        # Eight bits of mantissa, a few dozen layers.
        assert difference.std() < 0.05 * np.asarray(value).std(), layer


def test_float64_inference_bounds_the_error_of_float32(x64, residual, batch):
    double = backbone.astype(residual, jnp.float64)
    run = quick(features.extract)
    exact = run(double, batch[:1])
    assert {value.dtype for value in exact.values()} == {np.dtype("float64")}
    close(run(residual, batch[:1]), exact, 5e-6)


def test_extraction_can_be_differentiated(residual, batch):
    def loss(images):
        return features.extract(residual, images)["layer2"].sum()

    gradient = quick(jax.grad(loss))(batch[:1])
    assert gradient.shape == batch[:1].shape
    assert bool(jnp.all(jnp.isfinite(gradient)))
    assert float(jnp.abs(gradient).max()) > 0.0


# The loop.


@pytest.fixture(scope="module")
def all_maps(net, images):
    batch = backbone.preprocess(net, images)
    return quick(features.extract)(net, batch)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batches_give_the_maps_of_the_whole(batch_size, net, images, all_maps):
    counts = []
    found = features.extract_batches(
        net, iter(images), batch_size=batch_size, progress=counts.append
    )
    close(found, all_maps)
    assert {value.dtype for value in found.values()} == {np.dtype("float32")}
    assert sum(counts) == len(images)
    assert set(counts[:-1]) <= {batch_size}


def test_maps_can_go_to_memory_mapped_files(net, images, all_maps, tmp_path):
    out = {
        layer: np.lib.format.open_memmap(
            tmp_path / f"{layer}.npy", "w+", np.float32, (len(images), *shape)
        )
        for layer, shape in features.shapes(net).items()
    }
    found = features.extract_batches(net, images, batch_size=4, out=out)
    assert all(found[layer] is out[layer] for layer in net.layers)
    for value in out.values():
        value.flush()
    close({layer: np.load(tmp_path / f"{layer}.npy") for layer in out}, all_maps)


def test_images_are_read_only_as_they_are_needed(net, images):
    read = []

    def source():
        for index, image in enumerate(images):
            read.append(index)
            yield image

    stream = features.stream(net, source(), batch_size=4)
    first = next(stream)
    assert len(read) == 4
    assert first["layer1"].shape[0] == 4
    assert [len(maps["layer3"]) for maps in stream] == [4, 3]


def test_one_program_serves_all_batches(net, images):
    traced = []

    def apply(weights, batch):
        traced.append(batch.shape)
        return net.apply(weights, batch)

    counted = backbone.from_function(
        apply, net.weights, name="counted", layers=("layer1",), image_size=SIZE
    )
    traced.clear()
    features.extract_batches(counted, images, batch_size=4)
    features.extract_batches(counted, images[:2], batch_size=4)
    program = (1 if jax.default_backend() == "cpu" else 4, *SIZE, 3)
    assert traced == [program] or traced == 2 * [program]  # lax.map may trace twice.


def test_no_images_give_empty_maps(net):
    found = features.extract_batches(net, [])
    assert {layer: value.shape for layer, value in found.items()} == {
        layer: (0, *shape) for layer, shape in features.shapes(net).items()
    }


def test_impossible_batches_and_outputs_are_refused(net, images):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        features.extract_batches(net, images, batch_size=0)
    room = {
        layer: np.zeros((10, *shape), np.float32)
        for layer, shape in features.shapes(net).items()
    }
    with pytest.raises(ValueError, match="room of shape"):
        features.extract_batches(net, images, batch_size=4, out=room)
    with pytest.raises(ValueError, match="must hold 4 maps"):
        features.extract_batches(net, images[:4], batch_size=4, out=room)
    del room["layer2"]
    with pytest.raises(ValueError, match="out lacks the layer 'layer2'"):
        features.extract_batches(net, images[:4], batch_size=4, out=room)
