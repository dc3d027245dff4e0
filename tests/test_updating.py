"""A detector learns from further images: parts, whole, file and command."""

import dataclasses
import functools
import warnings

import chex
import jax
import numpy as np
import optax
import pytest
import tiny
from click.testing import CliRunner

from gladjax import backbone, cli, datasets, detector, io, metrics, online, weights
from gladjax.io import ModelError, container


@functools.cache
def fitted(*, local=True, motion="", max_samples=0, count=10):
    """A detector that kept its statistics."""
    settings = detector.Settings(
        num_components=12,
        max_steps=5,
        local=local,
        motion=motion,
        max_samples=max_samples,
        keep_statistics=True,
    )
    images = tiny.pictures(count)
    return detector.fit(jax.random.key(0), tiny.network(), images, settings=settings)


def arrays(model):
    return jax.tree.map(np.asarray, model.layers)


def samples(model, images):
    """Features and valid cells of the layers."""
    maps, valid, _ = detector.collecting.collect(model, images, None)
    return maps, {
        name: detector.collecting.on_grid(valid, m) for name, m in maps.items()
    }


# Local weights of images that are gone


@pytest.mark.parametrize("radius", [0.0, 1.0])
def test_counts_of_two_sets_are_those_of_all(rng, radius):
    labels = rng.integers(-1, 6, size=(9, 4, 5)).astype(np.int32)
    every = weights.label_counts(labels)
    first = weights.label_counts(labels[:4])
    chex.assert_trees_all_equal(weights.label_counts(labels[4:], before=first), every)
    dense = np.zeros((4 * 5, 6), int)
    np.add.at(dense, (every.places, every.components), every.amounts)
    for c in range(6):
        expected = np.sum(labels == c, axis=0).ravel()
        np.testing.assert_array_equal(dense[:, c], expected)
    whole = weights.counts(labels, 6, radius=radius)
    parts = weights.counts(labels[4:], 6, radius=radius, before=first)
    np.testing.assert_array_equal(parts, whole)


def test_counts_of_another_map_are_refused():
    first = weights.label_counts(np.zeros((1, 4, 5), np.int32))
    with pytest.raises(ValueError, match="map"):
        weights.label_counts(np.zeros((1, 5, 4), np.int32), before=first)


# The detector


@pytest.mark.parametrize("local", [True, False])
def test_a_detector_keeps_what_its_mixture_is_made_of(local):
    model = fitted(local=local)
    maps, keep = samples(model, tiny.pictures(10))
    for name, layer in model.layers.items():
        again = online.estimate(layer.kept.statistics)
        np.testing.assert_allclose(again.means, layer.mixture.means, atol=1e-5)
        found = again.log_weights
        np.testing.assert_allclose(found, layer.mixture.log_weights, atol=1e-5)
        total = layer.kept.statistics.counts.sum()
        assert total == keep[name].sum()
        assert (layer.kept.counts is None) == (not local)
        if local:
            assert layer.kept.counts.amounts.sum() == total
    assert maps.keys() == model.layers.keys()


def test_statistics_are_of_all_samples_also_where_the_fit_was_not():
    model = fitted(max_samples=200)
    _, keep = samples(model, tiny.pictures(10))
    for name, layer in model.layers.items():
        assert layer.kept.statistics.counts.sum() == keep[name].sum()


@pytest.mark.parametrize(
    ("local", "motion"), [(True, ""), (False, ""), (True, "translation")]
)
def test_an_update_counts_all_images(local, motion):
    model = fitted(local=local, motion=motion)
    told = []
    new = tiny.pictures(6, first=50)
    after = detector.update(model, new, progress=lambda *seen: told.append(seen))
    _, keep = samples(model, new)
    for name, layer in after.layers.items():
        before = model.layers[name].kept.statistics.counts.sum()
        total = layer.kept.statistics.counts.sum()
        assert total == pytest.approx(before + keep[name].sum())
        if local:
            assert layer.kept.counts.amounts.sum() == pytest.approx(total)
            starts = np.asarray(layer.local_weights.starts)
            sums = np.add.reduceat(np.exp(layer.local_weights.log_weights), starts[:-1])
            np.testing.assert_allclose(sums, 1, rtol=1e-5)
            dead = ~np.isfinite(layer.mixture.log_weights)
            assert not np.any(dead[layer.local_weights.components])
    assert after.calibration is None
    assert told[-1] == ("update", 3, 3)
    image = tiny.pictures(1, kind="spot")[0]
    assert np.isfinite(detector.score(after, image).score)
    assert detector.score(after, image).score > detector.score(after, new[0]).score


def test_an_updated_detector_tells_as_well_as_one_of_all():
    good, bad = tiny.pictures(15, first=100), tiny.pictures(15, kind="spot")
    settings = detector.Settings(num_components=12, max_steps=30, keep_statistics=True)
    every = tiny.pictures(24)
    key = jax.random.key(0)
    whole = detector.fit(key, tiny.network(), every, settings=settings)
    half = detector.fit(key, tiny.network(), every[:12], settings=settings)
    after = detector.update(half, every[12:])

    def auroc(model):
        scores = [detector.score(model, image).score for image in [*good, *bad]]
        return metrics.auroc(np.repeat([0, 1], 15), np.array(scores))

    assert auroc(whole) > 0.8
    assert auroc(after) >= auroc(whole) - 0.005


def test_what_was_learnt_is_forgotten_on_request():
    model, new = fitted(), tiny.pictures(6, first=50)
    kept = detector.update(model, new)
    gone = detector.update(model, new, schedule=optax.constant_schedule(1.0))
    for name in model.layers:
        old = model.layers[name].kept.statistics.counts.sum()
        both = kept.layers[name].kept.statistics.counts.sum()
        assert gone.layers[name].kept.statistics.counts.sum() == both - old


def test_a_prior_holds_for_the_fit_and_for_updates():
    settings = dataclasses.replace(fitted().settings, prior=5.0)
    model = detector.fit(
        jax.random.key(0), tiny.network(), tiny.pictures(10), settings=settings
    )
    maps, keep = samples(model, tiny.pictures(10))
    for name, layer in model.layers.items():
        options = {"valid": keep[name], "max_steps": 5, "prior": 5.0}
        expected = weights.fit(layer.mixture, maps[name], **options)
        chex.assert_trees_all_equal(layer.local_weights, expected)
        assert np.all(weights.active(layer.local_weights) == len(layer.mixture.means))
    after = detector.update(model, tiny.pictures(6, first=50))
    for layer in after.layers.values():
        alive = np.sum(np.isfinite(layer.mixture.log_weights))
        assert np.all(weights.active(layer.local_weights) == alive)


def test_em_fits_a_detector_too():
    settings = detector.Settings(num_components=6, max_steps=4, estimator="em")
    model, info = detector.fit_info(
        jax.random.key(0), tiny.network(), tiny.pictures(6), settings=settings
    )
    hard = detector.fit(
        jax.random.key(0),
        tiny.network(),
        tiny.pictures(6),
        settings=dataclasses.replace(settings, estimator="kmle"),
    )
    assert len(info.mixtures["fine"].log_likelihood) <= 4
    assert not np.array_equal(
        model.layers["fine"].mixture.means, hard.layers["fine"].mixture.means
    )
    image = tiny.pictures(1)[0]
    assert np.isfinite(detector.score(model, image).score)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "ml"}, "estimator"),
        ({"estimator": "em", "keep_statistics": True}, "keep_statistics"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    settings = detector.Settings(**options)
    with pytest.raises(ValueError, match=message):
        detector.fit(
            jax.random.key(0), tiny.network(), tiny.pictures(2), settings=settings
        )


def test_updates_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no image"):
        detector.update(fitted(), [])
    with pytest.raises(ValueError, match="keep_statistics"):
        detector.update(tiny.fitted(), tiny.pictures(2))


# The file


@pytest.mark.parametrize("local", [True, False])
def test_statistics_in_a_file_are_bit_exact(tmp_path, local):
    model = fitted(local=local)
    io.save(tmp_path / "m", model)
    again = io.load(tmp_path / "m", backbone=tiny.network())
    chex.assert_trees_all_equal(
        [layer.kept for layer in arrays(again).values()],
        [layer.kept for layer in arrays(model).values()],
    )
    new = tiny.pictures(4, first=50)
    one, other = detector.update(model, new), detector.update(again, new)
    for name in model.layers:
        np.testing.assert_allclose(
            one.layers[name].mixture.means, other.layers[name].mixture.means, rtol=1e-6
        )
    assert io.describe(tmp_path / "m").version == io.VERSION


def test_files_without_statistics_stay_as_they_were(tmp_path):
    io.save(tmp_path / "m", tiny.fitted())
    assert io.describe(tmp_path / "m").version == io.VERSION
    again = io.load(tmp_path / "m", backbone=tiny.network())
    assert all(layer.kept is None for layer in again.layers.values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("statistics.offsets", lambda a: a + 10**6),
        ("statistics.offsets", lambda a: a - 10**6),
        ("statistics.ranks", lambda a: a + 10**4),
        ("statistics.counts", lambda a: -a - 1),
        ("statistics.counts", lambda a: a[1:]),
        ("statistics.means", lambda a: a * np.nan),
        ("statistics.means", lambda a: a[:, 1:]),
        ("statistics.roots", lambda a: a[:, 1:]),
        ("statistics.roots", lambda a: a.astype(np.int32)),
        ("statistics.ranks", lambda a: None),
        ("counts.places", lambda a: a + 10**4),
        ("counts.places", lambda a: -a - 1),
        ("counts.components", lambda a: a + 10**3),
        ("counts.amounts", lambda a: a[1:]),
        ("counts.amounts", lambda a: a.astype(np.float32)),
        ("counts.amounts", lambda a: None),
    ],
)
def test_statistics_of_a_file_are_not_believed(tmp_path, name, change):
    io.save(tmp_path / "m", fitted())
    found, header = container.read(tmp_path / "m")
    value = change(found.pop(f"1.{name}"))
    if value is not None:
        found[f"1.{name}"] = value
    container.write(tmp_path / "m", found, header)
    with pytest.raises(ModelError, match="updates"):
        io.load(tmp_path / "m", backbone=tiny.network())


# The command


@pytest.fixture
def run(monkeypatch):
    """Runs the command on the tiny network; returns its code and what it said."""
    monkeypatch.setattr(backbone, "load", lambda *a, **k: tiny.network())

    def invoke(*words):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = CliRunner().invoke(cli.cli, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            return result.exception, result.output
        return result.exit_code, result.output

    return invoke


def test_a_model_file_is_updated(run, tmp_path):
    datasets.write_synthetic(tmp_path, num_train=16, num_good=4, num_bad=2, size=40)
    images = sorted((tmp_path / "texture" / "train" / "good").iterdir())
    model, newer = tmp_path / "m", tmp_path / "n"
    few = ["--num-components", "4", "--quiet", "--keep-statistics", "--prior", "0.5"]
    code, text = run("fit", *images[:10], *few, "--out", model)
    assert code == 0, text
    before = model.read_bytes()
    code, text = run("update", model, *images[10:], "--quiet", "--output", newer)
    assert code == 0, text
    assert "16 images" in text
    assert model.read_bytes() == before
    old, new = (io.load(path, backbone=tiny.network()) for path in (model, newer))
    assert io.describe(newer).notes["num_updated"] == 6
    assert old.settings.prior == new.settings.prior == 0.5
    assert len(new.calibration) == len(old.calibration) + 6
    np.testing.assert_array_equal(
        new.calibration[: len(old.calibration)], old.calibration
    )
    for name in old.layers:
        parts = (m.layers[name].kept.statistics.counts.sum() for m in (old, new))
        first, second = parts
        assert second / first == pytest.approx(1.6)
    code, text = run("score", newer, images[0], "--quiet")
    assert code == 0, text
    code, text = run(
        "update",
        newer,
        tmp_path / "texture" / "test" / "good" / "000.png",
        "--quiet",
        "--forget",
        "0.5",
        "--output",
        tmp_path / "o",
    )
    assert code == 0, text
    latest = io.load(tmp_path / "o", backbone=tiny.network())
    np.testing.assert_array_equal(latest.calibration, new.calibration)


def test_models_without_statistics_are_refused(run, tmp_path):
    io.save(tmp_path / "m", tiny.fitted())
    datasets.write_synthetic(tmp_path, num_train=2, num_good=1, num_bad=1, size=40)
    folder = tmp_path / "texture" / "train" / "good"
    error, _ = run("update", tmp_path / "m", folder, "--output", tmp_path / "n")
    assert "keep_statistics" in str(error)
    assert not (tmp_path / "n").exists()
