"""CFlow-AD, CS-Flow and DRAEM: they learn, their flows are flows, and refusals."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles_baselines as oracles
import pytest
from scipy import stats
from skimage.metrics import structural_similarity

from gladjax.baselines import (
    cflow,
    crossflow,
    csflow,
    draem,
    flows,
    simulate,
    training,
    unet,
)

SHAPES = {"layer1": (8, 6, 4), "layer2": (4, 3, 6)}
SMALL = {
    cflow: cflow.Training(num_blocks=4, num_code=16, num_steps=200, batch_size=128),
    csflow: csflow.Training(
        num_blocks=3, num_hidden=16, num_steps=200, batch_size=8, learning_rate=5e-3
    ),
}
METHODS = pytest.mark.parametrize(
    "method", SMALL, ids=[m.__name__.split(".")[-1] for m in SMALL]
)


def make(rng, n, kind="normal"):
    """Feature maps whose second half of channels follows the first.

    Anomalous images break this in the upper half: every channel alone looks normal
    there, so that only a model of their dependence sees it.
    """
    maps = {}
    for name, (h, w, d) in SHAPES.items():
        x = rng.normal(size=(n, h, w, d))
        x[..., d // 2 :] = np.tanh(2 * x[..., : d // 2]) + 0.2 * x[..., d // 2 :]
        if kind == "broken":
            x[:, : h // 2, :, d // 2 :] *= -1
        maps[name] = x.astype(np.float32)
    return maps


@functools.cache
def fitted(method):
    """A model trained in a few seconds, its training set, normal and broken images."""
    rng = np.random.default_rng(0)
    train = make(rng, 200)
    model = method.fit(jax.random.key(0), train, settings=SMALL[method])
    return model, train, make(rng, 12), make(rng, 12, "broken")


@METHODS
def test_flows_learn_the_dependence_of_channels(method):
    model, _, normal, broken = fitted(method)
    heat, scores = method.score(model, normal)
    broken_heat, broken_scores = method.score(model, broken)
    assert heat.shape == (12, 32, 24)
    assert scores.shape == (12,)
    assert oracles.auroc(scores, broken_scores) > 0.95
    inside = np.asarray(broken_heat[:, :12]).mean()
    outside = np.asarray(broken_heat[:, -12:]).mean()
    # The broken half is farther from the rest than the rest is from normal maps.
    assert inside - outside > 3 * abs(outside - float(jnp.mean(heat)))


@METHODS
def test_one_key_gives_one_flow(method):
    rng = np.random.default_rng(1)
    train = make(rng, 4)
    settings = type(SMALL[method])(num_steps=2, batch_size=2, num_blocks=1)
    fits = [method.fit(jax.random.key(5), train, settings=settings) for _ in range(2)]
    one, two = fits
    chex.assert_trees_all_equal(one, two)


@METHODS
def test_flows_ignore_invalid_cells(method):
    rng = np.random.default_rng(1)
    train, test = make(rng, 6), make(rng, 2)
    valid = np.ones((6, 8, 6), bool)
    valid[:, :2] = False
    settings = type(SMALL[method])(num_steps=3, batch_size=4, num_blocks=1)
    results = []
    for other in (0.0, np.nan):
        for x in train.values():
            x[:, : x.shape[1] // 4] = other
        model = method.fit(jax.random.key(0), train, valid=valid, settings=settings)
        results.append(method.score(model, test))
    chex.assert_tree_all_finite(results[1])
    chex.assert_trees_all_equal(*results)


@METHODS
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_blocks": 0}, "num_blocks|positive"),
        ({"batch_size": 0}, "batch_size|positive"),
        ({"num_steps": 0}, "num_steps"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_flows_refuse_bad_settings(method, options, words):
    train = make(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match=words):
        method.fit(jax.random.key(0), train, settings=type(SMALL[method])(**options))


@METHODS
def test_flows_refuse_a_layer_without_valid_cells(method):
    train = make(np.random.default_rng(0), 2)
    valid = np.zeros((2, 8, 6), bool)
    with pytest.raises(ValueError, match="valid"):
        method.fit(jax.random.key(0), train, valid=valid)


@METHODS
def test_flows_refuse_test_features_without_a_layer(method):
    model, _, normal, _ = fitted(method)
    with pytest.raises(ValueError, match="layer2"):
        method.score(model, {"layer1": normal["layer1"]})


def test_cflow_refuses_another_grid_and_odd_codes():
    model, train, normal, _ = fitted(cflow)
    with pytest.raises(ValueError, match="layer1"):
        cflow.score(model, {k: v[:, 1:] for k, v in normal.items()})
    with pytest.raises(ValueError, match="num_code"):
        cflow.fit(jax.random.key(0), train, settings=cflow.Training(num_code=6))


def test_csflow_refuses_single_channels():
    train = {"layer1": np.zeros((2, 4, 4, 1), np.float32)}
    with pytest.raises(ValueError, match="two features"):
        csflow.fit(jax.random.key(0), train)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_jacobian_of_a_conditional_flow_is_what_it_says(d, x64):
    keys = jax.random.split(jax.random.key(0), 3)
    blocks = flows.init(keys[0], d, jnp.float64, num_blocks=3, num_code=4)
    blocks = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
        blocks,
    )
    order = jnp.stack([jnp.roll(jnp.arange(d), i) for i in range(3)])
    x, code = jax.random.normal(keys[1], (d,)), jax.random.normal(keys[2], (4,))

    def run(x):
        z, log_det = flows.transform(blocks, order, x[None], code[None])
        return z[0], log_det[0]

    jacobian = jax.jit(jax.jacfwd(lambda x: run(x)[0]))(x)
    _, expected = np.linalg.slogdet(jacobian)
    np.testing.assert_allclose(jax.jit(run)(x)[1], expected, rtol=1e-9)
    assert abs(float(expected)) > 1e-2


def test_the_jacobian_of_the_cross_scale_flow_is_what_it_says(x64):
    dims, sizes = (3, 2), ((4, 2), (2, 1))
    key = jax.random.key(1)
    blocks = crossflow.init(key, dims, jnp.float64, num_blocks=2, num_hidden=3)
    blocks = jax.tree.map(lambda x: x + 0.5 if x.ndim == 0 else x, blocks)
    orders = tuple(tuple(jnp.arange(d)[::-1] for d in dims) for _ in range(2))
    shapes = [(*size, d) for size, d in zip(sizes, dims, strict=True)]
    counts = [int(np.prod(shape)) for shape in shapes]

    def run(flat):
        maps = [flat[: counts[0]], flat[counts[0] :]]
        maps = tuple(x.reshape(1, *s) for x, s in zip(maps, shapes, strict=True))
        z, log_det = crossflow.transform(blocks, orders, maps)
        total = sum(jnp.sum(x) for x in log_det)
        return jnp.concatenate([x.ravel() for x in z]), total

    flat = jax.random.normal(jax.random.key(2), (sum(counts),))
    jacobian = jax.jit(jax.jacfwd(lambda x: run(x)[0]))(flat)
    _, expected = np.linalg.slogdet(jacobian)
    np.testing.assert_allclose(jax.jit(run)(flat)[1], expected, rtol=1e-9)
    assert abs(float(expected)) > 1e-2


def test_the_density_of_a_trained_flow_integrates_to_one():
    rng = np.random.default_rng(0)
    train = {"layer1": rng.normal(size=(30, 2, 2, 1)).astype(np.float32) ** 3}
    settings = cflow.Training(num_blocks=3, num_code=4, num_steps=50)
    flow = cflow.fit(jax.random.key(0), train, settings=settings).flows["layer1"]
    step = 0.01
    grid = jnp.arange(-1200, 1200, dtype=jnp.float32) * step
    code = jnp.broadcast_to(flow.code[1, 0][None], (len(grid), 4))
    z, log_det = flows.transform(flow.blocks, flow.order, grid[:, None], code)
    density = jnp.exp(flows.normal_log_prob(z) + log_det)
    np.testing.assert_allclose(jnp.sum(density) * step, 1, atol=1e-3)


def test_normal_log_prob_equals_scipy():
    z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = stats.multivariate_normal(np.zeros(3)).logpdf(z)
    np.testing.assert_allclose(
        flows.normal_log_prob(jnp.asarray(z)), expected, rtol=1e-5
    )


def test_codes_of_different_positions_differ():
    code = flows.encode((16, 12), 16).reshape(16 * 12, 16)
    gaps = np.linalg.norm(code[:, None] - code[None], axis=-1)
    assert gaps[~np.eye(len(code), dtype=bool)].min() > 0.3
    np.testing.assert_allclose(
        np.sum(code**2, axis=1), 8
    )  # sin^2 + cos^2, eight times.


def test_minimize_finds_a_minimum_and_refuses_divergence():
    def loss(x, data, key, settings):
        return jnp.sum((x - data) ** 2)

    x, losses = training.minimize(
        jax.random.key(0),
        jnp.zeros(3),
        jnp.asarray([1.0, -2.0, 3.0]),
        loss=loss,
        num_steps=300,
        learning_rate=0.1,
    )
    np.testing.assert_allclose(x, [1, -2, 3], atol=0.02)
    assert losses[-1] < 1e-3 < losses[0]
    with pytest.raises(FloatingPointError, match="learning_rate"):
        training.minimize(
            jax.random.key(0),
            jnp.zeros(3),
            jnp.full(3, jnp.nan),
            loss=loss,
            num_steps=1,
            learning_rate=0.1,
        )


# --- DRAEM


def pictures(rng, n):
    """A grey disc on a ramp, at slightly different places, with a little noise."""
    y, x = np.mgrid[:24, :24]
    found = []
    for _ in range(n):
        a, b = rng.integers(10, 14, size=2)
        disc = 80.0 * ((y - a) ** 2 + (x - b) ** 2 < 36)
        image = np.repeat((60 + 2 * x + disc)[..., None], 3, axis=-1)
        found.append(image + rng.normal(size=image.shape) * 3)
    return np.clip(np.stack(found), 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_draem_learns_to_find_defects():
    rng = np.random.default_rng(0)
    train, normal, broken = (pictures(rng, n) for n in (24, 10, 10))
    for image in broken:
        a, b = rng.integers(3, 15, size=2)
        image[a : a + 6, b : b + 6] = rng.integers(0, 255, size=(6, 6, 3))
    settings = draem.Training(
        widths=(8, 8), depth=1, num_steps=300, batch_size=8, learning_rate=5e-3
    )
    model = draem.fit(jax.random.key(0), train, settings=settings, window=5)
    heat, scores = draem.score(model, normal)
    broken_heat, broken_scores = draem.score(model, broken)
    assert heat.shape == (10, 24, 24)
    assert heat.dtype == jnp.float32
    assert model.losses[-20:].mean() < 0.5 * model.losses[:20].mean()
    assert oracles.auroc(scores, broken_scores) > 0.9
    assert float(jnp.mean(broken_heat)) > float(jnp.mean(heat))


def test_draem_ignores_invalid_pixels():
    rng = np.random.default_rng(1)
    train = pictures(rng, 4)
    valid = np.ones((4, 24, 24), bool)
    valid[:, :, 16:] = False
    settings = draem.Training(widths=(2, 2), depth=1, num_steps=2, batch_size=2)
    models = []
    for other in (0, 200):
        train[:, :, 16:] = other
        models.append(
            draem.fit(jax.random.key(0), train, valid=valid, settings=settings)
        )
    chex.assert_trees_all_equal(*models)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": 4}, "window"),
        ({"settings": draem.Training(depth=6)}, "64"),
        ({"settings": draem.Training(widths=(0, 4))}, "positive"),
        ({"settings": draem.Training(num_steps=0, depth=1)}, "num_steps"),
        (
            {
                "valid": np.ones((2, 3, 3), bool),
                "settings": draem.Training(depth=1),
            },
            "valid",
        ),
    ],
)
def test_draem_refuses_bad_options(change, words):
    images = pictures(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match=words):
        draem.fit(jax.random.key(0), images, **change)


def test_unet_keeps_the_size_and_refuses_odd_ones():
    params = unet.init(jax.random.key(0), (3, 2), width=4, depth=2)
    shape = jax.eval_shape(unet.apply, params, jnp.ones((1, 8, 12, 3))).shape
    assert shape == (1, 8, 12, 2)
    with pytest.raises(ValueError, match="multiples of 4"):
        unet.apply(params, jnp.ones((1, 8, 10, 3)))


def test_ssim_equals_scikit_image(rng):
    a, b = rng.random((2, 24, 20, 3)).astype(np.float32)
    _, expected = structural_similarity(
        a,
        b,
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        sigma=1.5,
        full=True,
    )
    found = draem.ssim(jnp.asarray(a[None]), jnp.asarray(b[None]))[0]
    inner = slice(7, -7)  # The borders are padded otherwise there.
    # scikit-image cuts its window at 5 pixels, we at 6: 3e-4 of the weight.
    np.testing.assert_allclose(
        found[inner, inner], expected.mean(axis=-1)[inner, inner], atol=3e-4
    )
    same = draem.ssim(jnp.asarray(a[None]), jnp.asarray(a[None]))
    np.testing.assert_allclose(same, 1, atol=1e-6)


def test_focal_loss_by_hand():
    logits = jnp.asarray([[[0.0, 2.0, -2.0]]])
    mask = jnp.asarray([[[1.0, 1.0, 1.0]]])
    p = 1 / (1 + np.exp(-np.array([0.0, 2.0, -2.0])))
    expected = -((1 - p) ** 2) * np.log(p)
    np.testing.assert_allclose(draem.focal(logits, mask)[0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        draem.focal(-logits, 1 - mask)[0, 0], expected, rtol=1e-5
    )


def test_perlin_noise_is_smooth_and_bounded():
    draw = jax.jit(jax.vmap(lambda k: simulate.perlin(k, size=(64, 48), max_power=2)))
    noise = np.asarray(draw(jax.random.split(jax.random.key(0), 20)))
    assert np.abs(noise).max() <= 1
    assert noise.std() > 0.1
    assert abs(noise.mean()) < 0.1
    # At most 4 cells on 48 pixels: the slope of a cell is below 4 / 48 * 2 * sqrt(2).
    assert np.abs(np.diff(noise, axis=2)).max() < 0.25
    with pytest.raises(ValueError, match="max_power"):
        simulate.perlin(jax.random.key(0), size=(8, 8), max_power=-1)


def test_an_anomaly_changes_the_image_inside_its_mask_only():
    images = jnp.asarray(pictures(np.random.default_rng(0), 2), jnp.float32) / 255
    keys = jax.random.split(jax.random.key(3), 40)
    make = jax.jit(jax.vmap(lambda key: simulate.anomaly(key, images[0], images[1])))
    given, masks = (np.asarray(x) for x in make(keys))
    there = masks.any(axis=(1, 2))
    assert 8 <= there.sum() <= 32  # 20 of 40 expected, four standard deviations.
    outside = masks == 0
    original = np.broadcast_to(np.asarray(images[0]), given.shape)
    np.testing.assert_array_equal(given[outside], original[outside])
    assert np.abs(given - original)[~outside].mean() > 0.05
    assert given.min() >= 0
    assert given.max() <= 1
    share = masks[there].mean()
    assert 0.01 < share < 0.5


def test_textures_stay_in_range_and_differ():
    image = jnp.asarray(pictures(np.random.default_rng(0), 1)[0], jnp.float32) / 255
    keys = jax.random.split(jax.random.key(0), 8)
    found = jax.jit(jax.vmap(lambda key: simulate.texture(key, image)))(keys)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float(jnp.min(jnp.std(found, axis=0))) > 0
