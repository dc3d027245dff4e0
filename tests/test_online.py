"""Learning from further samples: statistics to the last digit, and what it loses."""

import math

import jax
import numpy as np
import optax
import oracles
import pytest
import synthetic_mixtures as synthetic

from gladjax import (
    assign,
    backbone,
    estimation,
    features,
    images,
    kmle,
    masks,
    metrics,
    online,
)
from gladjax import mixture as mixtures

KEY = jax.random.key(0)
SHAPES = {
    "many": ([40, 50, 60], 4, 4.0),
    "mixed": ([3, 9, 12, 13, 14, 40], 12, 4.0),
    "few": ([5, 8, 11, 20], 24, 6.0),
}


def samples(rng, name, *, dtype=np.float64):
    counts, d, distance = SHAPES[name]
    x, labels = synthetic.clusters(rng, counts, d, distance=distance)
    return x.astype(dtype), labels.astype(np.int32), len(counts)


def moments(kept):
    """Counts, means and scatters (k, d, d) that statistics stand for."""
    scatters = []
    for first, rank in zip(kept.offsets, kept.ranks, strict=True):
        root = np.asarray(kept.roots[first : first + rank], np.float64)
        scatters.append(root.T @ root)
    return kept.counts, kept.means, np.stack(scatters)


def literal(x, labels, k, weights):
    """Weighted counts, means and scatters, sample by sample."""
    d = x.shape[1]
    counts, means, scatters = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    for u, z, w in zip(x, labels, weights, strict=True):
        if z >= 0:
            counts[z] += w
            means[z] += w * u
    means /= np.where(counts > 0, counts, 1)[:, None]
    for u, z, w in zip(x, labels, weights, strict=True):
        if z >= 0:
            scatters[z] += w * np.outer(u - means[z], u - means[z])
    return counts, means, scatters


def check(kept, expected, atol):
    counts, means, scatters = moments(kept)
    np.testing.assert_allclose(counts, expected[0], rtol=atol)
    np.testing.assert_allclose(means, expected[1], rtol=0, atol=atol)
    scale = np.abs(expected[2]).max()
    np.testing.assert_allclose(scatters, expected[2], rtol=0, atol=atol * scale)


def same(found, expected, rtol):
    """Whether two mixtures have the same moments."""
    np.testing.assert_allclose(found.log_weights, expected.log_weights, rtol=rtol)
    np.testing.assert_allclose(found.means, expected.means, rtol=rtol, atol=rtol)
    alive = np.isfinite(found.log_weights)
    one, other = synthetic.dense(found)[alive], synthetic.dense(expected)[alive]
    scale = np.abs(other).max(initial=0)
    np.testing.assert_allclose(one, other, rtol=0, atol=rtol * scale)


# Against the twin


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_statistics_are_the_batch_moments(name, dtype):
    atol = 1e-12 if dtype == np.float64 else 1e-5
    x, labels, k = samples(np.random.default_rng(0), name, dtype=dtype)
    labels[::7] = -1
    weights = np.random.default_rng(1).uniform(0, 1, len(x))
    ones = np.ones(len(x))
    check(online.statistics(x, labels, k), literal(x, labels, k, ones), atol)
    kept = online.statistics(x, labels, k, weights=weights)
    check(kept, literal(x, labels, k, weights), atol)
    bound = np.minimum(np.maximum(np.bincount(labels[labels >= 0]) - 1, 0), x.shape[1])
    assert np.all(kept.ranks <= bound)
    assert kept.roots.dtype == dtype


@pytest.mark.parametrize("name", SHAPES)
def test_statistics_give_the_mixture_of_their_samples(x64, name):
    x, labels, k = samples(np.random.default_rng(0), name)
    expected = jax.jit(estimation.maximize, static_argnums=2)(x, labels, k)
    same(online.estimate(online.statistics(x, labels, k)), expected, 1e-9)
    halves = [
        online.statistics(part, z, k)
        for part, z in ((x[:50], labels[:50]), (x[50:], labels[50:]))
    ]
    same(online.estimate(online.merge(*halves)), expected, 1e-9)
    weights, means, covariances = oracles.maximize(x, labels, k)
    found = online.estimate(online.statistics(x, labels, k))
    np.testing.assert_allclose(np.exp(found.log_weights), weights, atol=1e-12)
    scale = np.abs(covariances).max()
    np.testing.assert_allclose(
        synthetic.dense(found), covariances, rtol=0, atol=1e-9 * scale
    )
    np.testing.assert_allclose(found.means, means, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_default_step_gives_the_moments_of_all(x64, size):
    x, labels, k = samples(np.random.default_rng(0), "mixed")
    old, new = slice(0, 60), slice(60, None)
    kept = online.statistics(x[old], labels[old], k)
    fitted = online.estimate(kept)
    found, after, info = online.update(
        fitted, kept, x[new], batch_size=size, max_passes=1
    )
    every = np.concatenate([labels[old], info.labels])
    check(after, literal(x, every, k, np.ones(len(x))), 1e-12)
    same(found, online.estimate(online.statistics(x, every, k)), 1e-9)
    assert len(info.steps) == -(-len(x[new]) // size)
    assert info.steps[-1] == pytest.approx(((len(x) - 60 - 1) % size + 1) / len(x))


def test_batches_are_literal_steps_toward_their_moments(x64):
    # The update of the paper, on averages: s <- (1 - gamma) s + gamma s_batch.
    x, labels, k = samples(np.random.default_rng(1), "many")
    kept = online.statistics(x[:90], labels[:90], k)
    schedule = optax.exponential_decay(0.5, 1, 0.6)
    _, after, info = online.update(
        online.estimate(kept),
        kept,
        x[90:],
        schedule=schedule,
        batch_size=15,
        max_passes=1,
    )
    averages = [np.zeros(k), np.zeros((k, 4)), np.zeros((k, 4, 4))]
    for t, first in enumerate(range(0, 150, 15)):
        part = slice(0, 90) if first == 0 else slice(75 + first, 90 + first)
        if part.start >= len(x):
            break
        z = (
            labels[part]
            if first == 0
            else info.labels[part.start - 90 : part.stop - 90]
        )
        gamma = 1.0 if first == 0 else float(schedule(t - 1))
        size = part.stop - part.start
        own = [np.zeros(k), np.zeros((k, 4)), np.zeros((k, 4, 4))]
        for u, c in zip(x[part], z, strict=True):
            own[0][c] += 1 / size
            own[1][c] += u / size
            own[2][c] += np.outer(u, u) / size
        averages = [
            (1 - gamma) * a + gamma * b for a, b in zip(averages, own, strict=True)
        ]
    counts, means, scatters = moments(after)
    np.testing.assert_allclose(counts / counts.sum(), averages[0], rtol=1e-6)
    np.testing.assert_allclose(
        counts[:, None] / counts.sum() * means, averages[1], rtol=1e-6, atol=1e-9
    )
    second = scatters / counts[:, None, None] + means[:, :, None] * means[:, None, :]
    np.testing.assert_allclose(
        second * averages[0][:, None, None], averages[2], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("gamma", "old", "new"), [(0.5, 30 / 120, 1.0), (0.1, 1.0, 120 / 270), (1.0, 0, 1)]
)
def test_no_sample_weighs_more_than_one(x64, gamma, old, new):
    x, labels, k = samples(np.random.default_rng(0), "many")
    kept = online.statistics(x[:120], labels[:120], k)
    _, after, info = online.update(
        online.estimate(kept),
        kept,
        x[120:],
        schedule=optax.constant_schedule(gamma),
        max_passes=1,
    )
    weights = np.where(np.arange(150) < 120, old, new)
    every = np.concatenate([labels[:120], info.labels])
    check(after, literal(x, every, k, weights), 1e-6)
    assert after.counts[after.counts > 0].sum() == pytest.approx(weights.sum(), 1e-6)


def test_further_passes_are_k_mle_of_the_new_samples(x64):
    x, labels, k = samples(np.random.default_rng(0), "many")
    wrong = np.where(np.arange(150) % 3 > 0, labels, (labels + 1) % k)
    kept = online.statistics(x[:75], wrong[:75], k)
    fitted = online.estimate(kept)
    found, after, info = online.update(
        fitted, kept, x[75:], batch_size=20, max_passes=50, growth=0.0
    )
    assert info.moved[0] > 0
    assert info.moved[-1] == 0
    # Nothing moves any more, the statistics are those of the labels.
    stay, _ = assign.nearest(found, x[75:])
    np.testing.assert_array_equal(stay, info.labels)
    every = np.concatenate([wrong[:75], info.labels])
    check(after, literal(x, every, k, np.ones(150)), 1e-12)
    same(found, online.estimate(after), 1e-9)


def test_new_components_are_made_of_what_fits_badly(x64):
    rng = np.random.default_rng(0)
    x, labels, k = samples(rng, "many")
    kept = online.statistics(x, labels, k)
    strange = rng.normal(size=(40, 4)) / 4 + x.max(axis=0) + 3
    new = np.concatenate([x[:100], strange])
    found, after, info = online.update(online.estimate(kept), kept, new)
    assert len(after.counts) == len(found.means) > k
    apart = info.labels[100:]
    assert np.all(apart >= k)
    assert not set(apart) & set(info.labels[:100])
    own = np.unique(apart)
    middle = after.counts[own] @ after.means[own] / after.counts[own].sum()
    np.testing.assert_allclose(middle, strange.mean(axis=0), rtol=1e-9)
    # The old samples are where they were, and nothing is lost or counted twice.
    assert after.counts.sum() == pytest.approx(len(x) + len(new))
    own = literal(new, info.labels, len(after.counts), np.ones(len(new)))
    counts = own[0] + np.append(np.bincount(labels), np.zeros(len(own[0]) - k))
    np.testing.assert_allclose(after.counts, counts)


# What is lost


def gap(found, whole, held):
    """How much less likely held-out samples are, in nats per dimension."""
    d = held.shape[1]
    likelihoods = [
        -0.5 * float(np.mean(assign.nearest(jax.tree.map(np.asarray, m), held)[1])) / d
        for m in (found, whole)
    ]
    return likelihoods[1] - likelihoods[0]


def halves(x, k):
    """A mixture of all samples, and one of the first half updated with the second."""
    n = len(x)
    whole, _ = kmle.fit(KEY, x, num_components=k)
    first, info = kmle.fit(KEY, x[: n // 2], num_components=k)
    kept = kmle.statistics(x[: n // 2], info.labels, len(first.means))
    found, _, _ = kmle.update(first, kept, x[n // 2 :])
    return whole, first, found


def test_an_updated_mixture_is_as_good_as_one_of_all():
    rng = np.random.default_rng(0)
    x, _ = synthetic.clusters(rng, [500] * 12, 10, distance=6.0)
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    whole, first, found = halves(x[:4000], 12)
    assert gap(found, whole, x[4000:]) <= 0.01
    assert gap(found, whole, x[4000:]) < gap(first, whole, x[4000:])


@pytest.fixture(scope="module")
def toothbrushes(mvtec_root):
    """Real features of normal images, and of all test images, standardised."""
    network = backbone.load("efficientnet_lite0")
    folder = mvtec_root / "toothbrush"
    if not folder.is_dir():
        pytest.skip("no toothbrush images")
    train = sorted((folder / "train" / "good").glob("*.png"))
    test = sorted((folder / "test").glob("*/*.png"))

    def read(paths):
        size = network.image_size
        every = (
            np.asarray(backbone.resize(images.read(p), size=size), np.float32)
            for p in paths
        )
        return features.extract_batches(network, every)

    labels = np.array([path.parent.name != "good" for path in test], np.int32)
    mask = masks.margin(network.image_size)
    one, other = read(train)["layer3"], read(test)["layer3"]
    keep = np.asarray(masks.to_grid(mask, one.shape[1:3]))
    one, other = one[:, keep], other[:, keep]
    middle, spread = one.mean(axis=(0, 1)), one.std(axis=(0, 1))
    return (one - middle) / spread, (other - middle) / spread, labels


def test_an_updated_mixture_of_real_features_is_as_good_as_one_of_all(toothbrushes):
    train, test, labels = toothbrushes
    d = train.shape[-1]
    whole, first, found = halves(train.reshape(-1, d), 60)
    held = test[labels == 0].reshape(-1, d)
    assert gap(found, whole, held) <= 0.01
    assert gap(first, whole, held) > 0.02  # The second half was worth learning.

    def auroc(model):
        model = jax.tree.map(np.asarray, model)
        cost = assign.nearest(model, test.reshape(-1, d))[1].reshape(len(test), -1)
        return float(metrics.auroc(labels, np.quantile(cost, 0.995, axis=1)))

    assert auroc(whole) > 0.8
    assert auroc(found) >= auroc(whole) - 0.005


# Corners


def test_copies_and_empty_components(x64):
    x = np.repeat([[1.1, 2.2], [3.3, 5.5]], 4, axis=0)
    labels = np.repeat([0, 2], 4).astype(np.int32)
    kept = online.statistics(x, labels, 3)
    assert kept.ranks.tolist() == [0, 0, 0]
    assert kept.counts.tolist() == [4, 0, 4]
    found, after, info = online.update(online.estimate(kept), kept, x[:1], growth=0.0)
    assert info.labels.tolist() == [0]
    assert after.counts.tolist() == [5, 0, 4]
    assert after.ranks.tolist() == [0, 0, 0]
    assert np.isneginf(found.log_weights).tolist() == [False, True, False]
    np.testing.assert_allclose(np.exp(found.log_weights), [5 / 9, 0, 4 / 9])


def test_forgotten_components_die_in_their_places(x64):
    x, labels, k = samples(np.random.default_rng(0), "many")
    kept = online.statistics(x, labels, k)
    only = x[labels == 1]
    found, after, _ = online.update(
        online.estimate(kept),
        kept,
        np.concatenate([only] * 4),
        schedule=optax.constant_schedule(0.8),
        batch_size=50,
        max_passes=1,
    )
    assert np.argmax(after.counts) == 1
    assert np.isneginf(found.log_weights).sum() >= 1
    assert np.isfinite(found.log_weights[1])


@pytest.mark.parametrize("rubbish", [1e6, np.nan])
def test_invalid_samples_are_never_used(x64, rubbish):
    x, labels, k = samples(np.random.default_rng(0), "mixed")
    kept = online.statistics(x[:50], labels[:50], k)
    fitted, new = online.estimate(kept), x[50:].copy()
    valid = np.random.default_rng(1).random(len(new)) < 0.7
    expected = online.update(fitted, kept, new[valid])
    new[~valid] = rubbish
    found = online.update(fitted, kept, new, valid=valid)
    np.testing.assert_array_equal(found[2].labels[valid], expected[2].labels)
    assert np.all(found[2].labels[~valid] == -1)
    check(found[1], moments(expected[1]), 1e-12)


def test_a_step_of_0_learns_nothing(x64):
    x, labels, k = samples(np.random.default_rng(0), "many")
    kept = online.statistics(x[:75], labels[:75], k)
    fitted = online.estimate(kept)
    schedule = optax.constant_schedule(0.0)
    found, after, info = online.update(
        fitted, kept, x[75:], schedule=schedule, growth=0.0
    )
    check(after, moments(kept), 1e-12)
    same(found, fitted, 1e-12)
    _, cost = assign.nearest(fitted, x[75:])
    expected = -0.5 * (cost.mean() + 4 * math.log(2 * math.pi))
    assert info.log_likelihood[0] == pytest.approx(expected)


# Refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"max_passes": 0}, "max_passes"),
        ({"min_count": 0}, "min_count"),
        ({"schedule": optax.constant_schedule(1.5)}, "step of batch 0"),
        ({"valid": np.zeros(150, bool)}, "no sample is valid"),
        ({"growth": 1.5}, "growth"),
    ],
)
def test_impossible_options_are_refused(kwargs, message):
    x, labels, k = samples(np.random.default_rng(0), "many", dtype=np.float32)
    kept = online.statistics(x, labels, k)
    with pytest.raises(ValueError, match=message):
        online.update(online.estimate(kept), kept, x, **kwargs)


def test_what_does_not_fit_is_refused():
    x, labels, k = samples(np.random.default_rng(0), "many", dtype=np.float32)
    kept = online.statistics(x, labels, k)
    fitted = online.estimate(kept)
    with pytest.raises(ValueError, match="features"):
        online.update(fitted, kept, x[:, :3])
    with pytest.raises(ValueError, match="4 components"):
        online.update(mixtures.compact(fitted), online.statistics(x, labels, 4), x)
    with pytest.raises(ValueError, match="finite"):
        online.update(fitted, kept, x * np.nan)
    with pytest.raises(ValueError, match="num_components"):
        online.statistics(x, labels, 2)
    with pytest.raises((ValueError, TypeError), match="labels"):
        online.statistics(x, labels[:5], 3)
