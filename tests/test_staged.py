"""Coarse to fine: a component for so many cells, one shape for all of them."""

import jax
import numpy as np
import pytest

from gladjax import assign, staged

SAMPLES = 2048


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small subsamples, so that all stages take part."""
    monkeypatch.setattr(staged, "SAMPLES", SAMPLES)
    monkeypatch.setattr(staged, "NUMBERS", (2, 4, 8, 16))


def maps(rng, *, images=10, clusters=4, spread=0.3, d=3):
    """Feature maps of 16 x 16 cells, drawn from some clusters."""
    centres = 4 * rng.normal(size=(clusters, d))
    label = rng.integers(0, clusters, size=(images, 16, 16))
    noise = spread * rng.normal(size=(images, 16, 16, d))
    return (centres[label] + noise).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "number"), [(1, 2), (2, 2), (3, 4), (5, 4), (6, 8), (16, 16), (40, 16)]
)
def test_there_is_a_component_for_every_256_cells(rng, images, number):
    x = maps(rng, images=images)
    fitted, info = staged.fit(jax.random.key(0), x, max_samples=SAMPLES)
    assert len(fitted.means) == staged.number(images * 256) == number
    assert (info.labels >= 0).sum() == min(staged.JOINED * SAMPLES, images * 256)
    assert info.converged


def test_few_samples_get_no_more_components_than_they_bear(rng):
    x = maps(rng, images=16)
    valid = np.zeros(x.shape[:3], bool)
    valid[:, 3, 4] = True
    fitted, info = staged.fit(jax.random.key(0), x, valid=valid, min_count=9)
    assert len(fitted.means) == staged.largest(16, 9) < staged.number(16)
    assert info.labels.max() < len(fitted.means)


def test_labels_are_of_the_samples_that_took_part(rng):
    x = maps(rng)
    fitted, info = staged.fit(jax.random.key(0), x, max_samples=SAMPLES // 4)
    took = info.labels >= 0
    assert took.sum() == SAMPLES
    alive = np.isfinite(np.asarray(fitted.log_weights))
    assert np.all(alive[info.labels[took]])
    counts = np.bincount(info.labels[took], minlength=len(alive))
    weights = np.exp(np.asarray(fitted.log_weights))
    np.testing.assert_allclose(weights, counts / counts.sum(), atol=1e-6)
    x = x.reshape(-1, 3)
    for k in np.flatnonzero(alive):
        mean = x[info.labels == k].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(fitted.means[k], mean, atol=1e-4)


def test_more_samples_join_and_make_unseen_images_likelier(rng, monkeypatch):
    x = maps(rng, images=30, clusters=12, spread=1.0, d=6)
    unseen = x[24:].reshape(-1, 6)
    all_ = staged.fit(jax.random.key(0), x[:24], max_samples=0)
    monkeypatch.setattr(staged, "JOINED", 1)
    few = staged.fit(jax.random.key(0), x[:24], max_samples=SAMPLES)
    assert (few[1].labels >= 0).sum() == SAMPLES
    assert (all_[1].labels >= 0).sum() == 24 * 256
    steps = len(few[1].log_likelihood)
    assert len(all_[1].log_likelihood) == steps + 1
    before = all_[1].log_likelihood[:steps]
    np.testing.assert_array_equal(before, few[1].log_likelihood)
    assert all_[1].converged is few[1].converged
    costs = [assign.nearest(model, unseen)[1].mean() for model, _ in (few, all_)]
    assert costs[1] < costs[0]


def test_no_more_samples_are_used_than_asked_for(rng):
    used = []
    staged.fit(
        jax.random.key(0),
        maps(rng),
        max_samples=300,
        monitor=lambda snapshot: used.append((snapshot.labels >= 0).sum()),
    )
    assert used[-1] == staged.JOINED * 300
    assert set(used[:-1]) == {300}


def test_samples_that_do_not_count_have_no_part(rng):
    x = maps(rng)
    valid = rng.random(x.shape[:3]) < 0.7
    wrong = np.where(valid[..., None], x, np.nan)
    fitted, info = staged.fit(jax.random.key(0), wrong, valid=valid)
    assert np.all(info.labels[~valid.ravel()] == -1)
    same, _ = staged.fit(jax.random.key(0), x, valid=valid)
    np.testing.assert_array_equal(fitted.means, same.means)


def test_the_same_key_gives_the_same_mixture(rng):
    x = maps(rng)
    first, second = (staged.fit(jax.random.key(3), x)[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_an_unusual_scale_changes_nothing_but_the_scale(rng):
    x = maps(rng)
    one, one_info = staged.fit(jax.random.key(0), x)
    far, far_info = staged.fit(jax.random.key(0), x * np.float32(2.0**40))
    np.testing.assert_allclose(far.means, np.asarray(one.means) * 2.0**40, rtol=1e-5)
    less = x.shape[-1] * 40 * np.log(2.0)
    likelihood = one_info.log_likelihood - less
    np.testing.assert_allclose(far_info.log_likelihood, likelihood, rtol=1e-4)


@pytest.mark.parametrize(("one", "other", "limit"), [(10, 13, SAMPLES), (18, 23, 0)])
def test_the_number_of_images_makes_no_new_program(rng, one, other, limit):
    staged.fit(jax.random.key(0), maps(rng, images=one), max_samples=limit)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **more: compiled.append((name, more))
    )
    try:
        staged.fit(jax.random.key(1), maps(rng, images=other), max_samples=limit)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [one for one in compiled if "backend_compile" in one[0]]


def test_nothing_to_learn_from_is_said(rng):
    x = maps(rng)
    with pytest.raises(ValueError, match="too few"):
        staged.fit(jax.random.key(0), x, valid=np.zeros(x.shape[:3], bool))
