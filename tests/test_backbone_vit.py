"""Vision transformers: another real network behind the same door."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden.backbone import rule
from quick import quick

from gladjax import backbone, features
from gladjax.backbone import CheckpointError, network, vit

GOLDEN = pathlib.Path(__file__).parent / "golden" / "backbone" / "vit.npz"
SIZES = ((70, 70), (42, 84), (112, 98))
SMALL = vit.Spec(dim=24, depth=4, num_heads=3, grid=5)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def state_dict(spec):
    """Tensors by the original's names, drawn by the rule."""
    _, abstract = network.template(vit.MODULE, spec)
    flat = traverse_util.flatten_dict(abstract, sep="/")
    axes = {4: (3, 2, 0, 1), 3: (0, 1, 2), 2: (1, 0), 1: (0,)}
    state = {"mask_token": np.zeros((1, spec.dim), np.float32)}
    for path, key in vit.names(spec).items():
        shape = flat[path].shape
        shape = tuple(shape[axis] for axis in axes[len(shape)])
        state[key] = rule.weight(key, shape)
    return state


def small(registers):
    spec = dataclasses.replace(SMALL, num_registers=registers)
    return network.assemble(
        vit.FAMILY, spec, state_dict(spec), name="small", image_size=(70, 70)
    )


@pytest.mark.parametrize("registers", [0, 4])
def test_patch_tokens_match_torch_at_every_size(registers, golden):
    """At the size of the learned positions, and with them enlarged and reduced."""
    net = small(registers)
    for height, width in SIZES:
        maps = quick(features.extract)(net, rule.images(height, width))
        errors = rule.worst(maps, golden, f"{registers}/{height}x{width}")
        assert max(errors.values()) < 5e-6, errors


def test_all_transformations_apply():
    net = small(0)
    images = jnp.asarray(np.concatenate([rule.images(70, 70), -rule.images(70, 70)]))
    expected = quick(features.extract)(net, images)
    mapped = quick(jax.vmap(lambda x: features.extract(net, x[None])["layer2"][0]))
    np.testing.assert_allclose(mapped(images), expected["layer2"], rtol=0, atol=2e-5)
    half = quick(features.extract)(backbone.astype(net, jnp.bfloat16), images)
    assert half["layer3"].dtype == jnp.bfloat16
    difference = np.asarray(half["layer3"], np.float32) - expected["layer3"]
    assert np.std(difference) < 0.05 * np.std(expected["layer3"])
    assert features.shapes(net)["layer1"] == (5, 5, 24)


def test_the_named_network_has_the_published_size():
    """Abstractly: 22 million weights, three maps of a grid of 32."""
    known = backbone.entry("dinov2_vits14")
    _, abstract = network.template(vit.MODULE, known.spec)
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(abstract))
    assert 21.5e6 < count < 22.5e6
    net = backbone.from_function(
        network.Network(vit.FAMILY, known.spec),
        abstract,
        name=known.name,
        layers=network.LAYERS,
        image_size=known.image_size,
    )
    assert features.shapes(net) == dict.fromkeys(net.layers, (32, 32, 384))


def test_random_weights_give_distinct_tokens():
    net = backbone.random(jax.random.key(0), "dinov2_vits14", image_size=(42, 28))
    maps = quick(features.extract)(net, rule.images(42, 28))
    tokens = np.asarray(maps["layer3"]).reshape(6, 384)
    assert np.all(np.isfinite(tokens))
    assert np.linalg.matrix_rank(tokens) == 6


def test_what_does_not_fit_is_refused():
    net = small(0)
    with pytest.raises(ValueError, match="70 x 75 image does not divide"):
        features.extract(net, np.zeros((1, 70, 75, 3), np.float32))
    state = state_dict(SMALL)
    with pytest.raises(CheckpointError, match="not known: register_tokens"):
        network.check(vit.FAMILY, SMALL, {**state, "register_tokens": np.zeros(1)})
    del state["blocks.3.ls2.gamma"]
    with pytest.raises(CheckpointError, match=r"missing: blocks\.3\.ls2\.gamma"):
        network.check(vit.FAMILY, SMALL, state)
    with pytest.raises(ValueError, match="dinov2_vits14 has no classifier"):
        backbone.from_torch("dinov2_vits14", {}, head=True)
