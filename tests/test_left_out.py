"""Images left out by subtraction, against models that never saw them."""

import dataclasses

import jax
import numpy as np
import oracles
import pytest
import tiny

from gladjax import backbone, calibrate, covariance, detector, masks, weights
from gladjax.detector import layers, left_out

FOLDS = 4


def fitted(*, count=9, num_components=6, images=None, **more):
    more = {"max_samples": 0, "max_steps": 4, "min_kept": 0.0, "augment": "", **more}
    settings = detector.Settings(num_components=num_components, **more)
    images = tiny.pictures(count) if images is None else images
    return (
        *detector.fit_info(
            jax.random.key(0), tiny.network(), images, settings=settings, folds=FOLDS
        ),
        images,
    )


def scattered(count, *, still=0, side=48):
    """Squares on a grey ground: anywhere, or where they are in all images."""
    images = []
    for i in range(count):
        rng = np.random.default_rng(still or i)
        image = 100 + np.random.default_rng(100 + i).normal(0, 4, (side, side, 3))
        for row, column in rng.integers(0, side - 8, (4, 2)):
            image[row : row + 8, column : column + 8] += (90, -60, 30)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return images


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize("never", [None, 0, 3])
def test_every_image_is_dealt_out_once(count, never):
    places = left_out.deal(count, FOLDS, never=never)
    left = [i for i in range(count) if i != never]
    assert np.flatnonzero(places < 0).tolist() == ([] if never is None else [never])
    sizes = np.bincount(places[left])
    assert len(sizes) == min(FOLDS, len(left))
    assert sizes.max() - sizes.min() <= 1
    assert np.all(left_out.deal(count, 0) == -1)
    assert left_out.deal(3, 10).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["local", "global", "not local enough", "copies"])
def test_scores_are_those_of_the_sums_without_the_fold(kind):
    local = kind in ("local", "copies")
    copies = 2 if kind == "copies" else 1
    more = {"local": local, "augment": "flip" if copies > 1 else ""}
    if kind == "not local enough":
        more = {"min_kept": 1.0, "images": scattered(9)}
    model, info, images = fitted(**more)
    assert model.settings.local == local
    assert bool(info.weights) == local
    maps, _, _ = detector.collecting.collect(model, images, None)
    places = left_out.deal(len(images), FOLDS)
    assert len(info.left_out) == len(images)
    names = list(model.layers)
    for i in [0, 5]:
        rest = np.repeat(places != places[i], copies)
        whole = []
        for name in names:
            own = maps[name]
            m, h, w, d = own.shape
            k = len(model.layers[name].mixture.means)
            labels = np.asarray(info.mixtures[name].labels).reshape(m, h, w)
            samples = own.astype(np.float64).reshape(-1, d)
            some = np.where(rest[:, None, None], labels, -1).ravel()
            # The floor stays that of all samples, which only matters for copies.
            expected = oracles.maximize(samples, some, k)
            if local:
                where = info.weights[name].labels
                shares = np.zeros((h, w, k))
                for y, x in np.ndindex(h, w):
                    window = [
                        where[rest, a, b]
                        for a, b in np.ndindex(h, w)
                        if (a - y) ** 2 + (b - x) ** 2 <= 1
                    ]
                    counts = np.bincount(np.concatenate(window), minlength=k)
                    shares[y, x] = counts / counts.sum()
            else:
                shares = np.broadcast_to(expected[0], (h, w, k))
            whole.append(
                oracles.log_prob_map(
                    own[copies * i].astype(np.float64), expected, shares
                )
            )
        scales = oracles.averaged_scales(dict(zip(names, whole, strict=True)))
        log_map = oracles.product(scales)
        mask = np.asarray(masks.to_grid(model.mask, log_map.shape))
        score = oracles.image_score(log_map, mask)
        np.testing.assert_allclose(info.left_out[i], score, rtol=2e-4)


def test_an_image_left_out_is_less_likely_than_one_learnt_from():
    model, info, images = fitted(count=12)
    learnt = [detector.score(model, image).score for image in images]
    assert np.all(info.left_out > learnt)
    new = [detector.score(model, one).score for one in tiny.pictures(12, first=50)]
    # Neither much larger nor much smaller than scores of images never seen.
    assert abs(np.median(info.left_out) - np.median(new)) < 0.5 * np.ptp(new)


def test_the_reference_is_never_left_out():
    model, info, pictures = fitted(motion="translation")
    (number,) = np.flatnonzero(np.isnan(info.left_out))
    own = backbone.resize(pictures[number], size=model.backbone.image_size)
    np.testing.assert_array_equal(model.reference, own)


def test_every_image_gives_a_threshold():
    _, info, _ = fitted(count=20)
    assert calibrate.threshold(info.left_out, 0.05) == info.left_out.max()


def test_without_folds_nothing_is_left_out():
    settings = detector.Settings(num_components=4, max_steps=2)
    _, info = detector.fit_info(
        jax.random.key(0), tiny.network(), tiny.pictures(4), settings=settings
    )
    assert info.left_out is None


def test_soft_assignments_cannot_be_left_out():
    settings = detector.Settings(num_components=4, estimator="em")
    with pytest.raises(ValueError, match="kmle"):
        detector.fit_info(
            jax.random.key(0),
            tiny.network(),
            tiny.pictures(4),
            settings=settings,
            folds=2,
        )


@pytest.mark.parametrize(("still", "looked"), [(0, 2), (7, 20)])
def test_weights_are_local_where_that_holds_for_images_left_out(
    still, looked, monkeypatch
):
    """What lies anyhow has few images too few to say what lies where."""
    monkeypatch.setattr(left_out, "LOOKED", looked)
    images = scattered(6, still=still)
    model, info, _ = fitted(images=images, num_components=12, min_kept=0.5)
    plain, report, _ = fitted(images=images, num_components=12)
    assert report.kept is None
    assert plain.settings.local
    assert model.settings.local == bool(still)
    assert (info.kept >= 0.5) == bool(still)
    new = scattered(1, still=still)[0]
    score = detector.score(model, new).score
    if still:
        assert score == detector.score(plain, new).score
        return
    assert np.isfinite(info.left_out).all()
    alike, alone, _ = fitted(images=images, num_components=12, local=False)
    np.testing.assert_array_equal(info.left_out, alone.left_out)
    assert score == pytest.approx(detector.score(alike, new).score, rel=1e-5)
    assert not info.weights


@pytest.mark.parametrize(("looked", "seen"), [(3, 4), (20, 8)])
def test_the_share_that_holds_is_that_of_the_definition(looked, seen, monkeypatch):
    """Likelihood gained by images left out, over that of the images counted."""
    monkeypatch.setattr(left_out, "LOOKED", looked)
    model, info, images = fitted(min_kept=1e-9, count=8)
    assert model.settings.local
    told = sum(
        oracles.information(
            weights.dense(layer.local_weights, len(layer.mixture.means)),
            np.exp(np.asarray(layer.mixture.log_weights, np.float64)),
        )
        for layer in model.layers.values()
    )
    maps, valid, _ = detector.collecting.collect(model, images, None)
    places, means = left_out.deal(len(images), FOLDS), []
    for local in (True, False):
        settings = dataclasses.replace(model.settings, local=local)
        learnt = detector.fitting.learn_layers(
            jax.random.key(0),
            dataclasses.replace(model, layers={}, settings=settings),
            maps,
            valid,
            (covariance.oas, places),
            lambda _: None,
            layers.Clock(),
        )
        told_by = places < left_out.looked_at(places)
        assert told_by.sum() == seen
        means.append(sum(one.alone[told_by].mean() for one in learnt.values()))
    assert info.kept == pytest.approx((means[0] - means[1]) / told, rel=1e-4)


def test_more_images_than_may_be_too_few_are_not_asked(monkeypatch):
    monkeypatch.setattr(left_out, "FEW", 8)
    _, info, _ = fitted(count=9, min_kept=1.0)
    assert info.kept is None
    assert info.weights
