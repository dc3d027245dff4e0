"""Residual networks against torch, layer by layer, and their laws."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.backbone import rule
from quick import quick
from residual_states import state_dict

from gladjax import backbone, features
from gladjax.backbone import blurpool, network, resnet
from gladjax.backbone.entries import variant

GOLDEN = pathlib.Path(__file__).parent / "golden" / "backbone" / "residual.npz"
NAMES = ("resnet18", "resnet50", "wide_resnet50_2")
# The bounds: relative to the map's largest value, torch's own float32 error
# being 2e-6 and 1e-5; folding may double it.
TOLERANCE = {4: 5e-6, 1: 2e-5, None: 2e-5}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("filter_size", [4, 1, None])
@pytest.mark.parametrize("name", NAMES)
def test_taps_match_torch_at_every_size(name, filter_size, golden):
    net = backbone.from_torch(
        name, state_dict(name, filter_size), filter_size=filter_size, folded=False
    )
    assert net.name == variant(name, filter_size=filter_size)
    for height, width in rule.SIZES:
        maps = quick(features.extract)(net, rule.images(height, width))
        errors = rule.worst(maps, golden, f"{name}/{filter_size}/{height}x{width}")
        assert max(errors.values()) < TOLERANCE[filter_size], errors


@pytest.mark.parametrize("filter_size", [4, 1, None])
@pytest.mark.parametrize("name", NAMES)
def test_folded_taps_match_torch(name, filter_size, golden):
    net = backbone.from_torch(
        name, state_dict(name, filter_size), filter_size=filter_size
    )
    for height, width in rule.SIZES[2:]:
        run = jax.jit if name == "resnet18" else quick
        maps = run(features.extract)(net, rule.images(height, width))
        errors = rule.worst(maps, golden, f"{name}/{filter_size}/{height}x{width}")
        assert max(errors.values()) < 2 * TOLERANCE[filter_size], errors


def naive_blur(x, size):
    """The definition: reflect, correlate with the square filter, take every second."""
    row = [[1], [1, 1], [1, 2, 1], [1, 3, 3, 1], [1, 4, 6, 4, 1]][size - 1]
    square = np.outer(row, row) / np.sum(row) ** 2
    before, behind = (size - 1) // 2, -(-(size - 1) // 2)
    padded = np.pad(x, ((before, behind), (before, behind)), mode="reflect")
    out = np.zeros((-(-x.shape[0] // 2), -(-x.shape[1] // 2)))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            window = padded[2 * i : 2 * i + size, 2 * j : 2 * j + size]
            out[i, j] = (window * square).sum()
    return out


@pytest.mark.parametrize("shape", [(7, 8)])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_blur_pool_is_its_definition(size, shape, rng, variant):
    x = jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)
    found = variant(functools.partial(blurpool.blur_pool, size=size))(x)
    expected = naive_blur(np.asarray(x[1, :, :, 2], np.float64), size)
    assert found.shape == (2, *expected.shape, 3)
    np.testing.assert_allclose(found[1, :, :, 2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 6, 7])
def test_blur_keeps_a_constant(size):
    x = jnp.full((1, 9, 8, 2), 3.0)
    np.testing.assert_allclose(blurpool.blur_pool(x, size), 3.0, rtol=1e-6)


@pytest.mark.parametrize("size", [0, 8])
def test_an_impossible_filter_is_refused(size):
    with pytest.raises(ValueError, match=f"filter_size must be 1 to 7 .*{size}"):
        backbone.from_torch("resnet18", {}, filter_size=size)


def test_a_map_too_small_for_the_blur_is_refused():
    with pytest.raises(ValueError, match="too small"):
        blurpool.blur_pool(jnp.zeros((1, 2, 8, 1)), 4)


def test_the_anti_aliased_network_with_filter_1_is_not_the_plain_one():
    """Same tensors but for the filters' names: another network, other map sizes."""
    sizes = [
        features.shapes(
            backbone.random(jax.random.key(0), f"resnet18_{form}"),
            image_size=(250, 186),
        )["layer1"][:2]
        for form in ("lpf1", "plain")
    ]
    assert sizes == [(62, 46), (63, 47)]


def test_every_member_of_the_family_has_the_paper_s_widths():
    wide = {50: (256, 512, 1024), 18: (64, 128, 256)}
    expected = {"resnet18": 18, "resnet34": 18}
    for known in backbone.catalogue():
        base = known.name.partition("_plain")[0]
        if "resnet" in known.name:
            table = resnet.names(known.spec)
            stages = [key for key in table if key.startswith("stage3_")]
            blocks = len({key.split("/")[0] for key in stages})
            depth = {"101": 23, "152": 36, "18": 2}
            assert blocks == next((v for k, v in depth.items() if k in base), 6), base
            net = backbone.from_function(
                network.Network(known.family, known.spec),
                network.template(resnet.MODULE, known.spec)[1],
                name=base,
                layers=network.LAYERS,
            )
            assert net.dims == wide[expected.get(base, 50)]


def test_with_its_head_the_network_classifies(golden):
    state = state_dict("resnet18", 4, head=1000)
    net = backbone.from_torch("resnet18", state, head=True)
    images = rule.images(224, 320)
    logits = jax.jit(backbone.classify)(net, images)
    expected = golden["resnet18/4/224x320/logits"]
    error = np.abs(np.asarray(logits)[0] - expected).max() / np.abs(expected).max()
    assert error < 1e-5
    assert set(features.shapes(net)) == set(rule.LAYERS)
    assert net.sha256 == backbone.from_torch("resnet18", state).sha256
