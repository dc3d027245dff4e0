"""Layers at a second scale: means over windows, log-maps averaged, their uses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import tiny

from gladjax import detector, features, io, neighbourhoods, scoring


@pytest.mark.parametrize(("shape", "side"), [((5, 7), 3), ((6, 5), 5), ((3, 3), 3)])
def test_windows_are_moved_inside(rng, shape, side):
    maps = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    want = [oracles.window_means(one.astype(np.float64), side) for one in maps]
    got = neighbourhoods.means(jnp.asarray(maps), side)
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-5, atol=1e-6)


def test_a_map_smaller_than_the_window_is_averaged_as_far_as_it_goes(rng):
    maps = rng.normal(size=(1, 1, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(neighbourhoods.means(jnp.asarray(maps), 3), maps)


def test_scales_of_a_layer_are_averaged_and_their_border_is_calm(rng):
    maps = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in [
            ("a", (8, 8)),
            ("b", (5, 6)),
            ("b@3", (5, 6)),
            ("b@5", (5, 6)),
        ]
    }
    got = neighbourhoods.merged(maps)
    want = oracles.averaged_scales(maps)
    assert [m.shape for m in got] == [(8, 8), (5, 6)]
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_without_derived_layers_nothing_changes(rng):
    maps = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in "ab"}
    for one, other in zip(neighbourhoods.merged(maps), maps.values(), strict=True):
        assert np.array_equal(one, other)


def test_a_network_gives_the_layers_that_are_named(rng):
    network = neighbourhoods.select(tiny.network(), ["coarse", "coarse@3"])
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    own = features.extract(tiny.network(), images)
    got = features.extract(network, images)
    assert list(got) == ["coarse", "coarse@3"]
    assert network.dims == (7, 7)
    assert np.array_equal(got["coarse"], own["coarse"])
    assert np.array_equal(got["coarse@3"], neighbourhoods.means(own["coarse"], 3))
    assert neighbourhoods.plain(network).layers == ("coarse",)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["fine", "middle"], "no layer 'middle'"),
        (["fine", "fine"], "twice"),
        (["fine@4"], "must be odd"),
        (["fine@1"], "must be odd"),
        (["fine@99"], "3 to 31"),
        ([], "at least one"),
    ],
)
def test_other_layers_are_refused(layers, words):
    with pytest.raises(ValueError, match=words):
        neighbourhoods.select(tiny.network(), layers)


def _seen(network, settings):
    side, finest = settings.neighbourhood, settings.finest
    return neighbourhoods.seen(network, side, finest=finest)


def test_the_coarsest_layer_is_seen_twice_by_default_and_once_in_the_paper():
    usual = _seen(tiny.network(), detector.Settings())
    assert usual.layers == ("fine", "coarse", "coarse@3")
    assert neighbourhoods.seen(usual, 5, finest=False) is usual
    assert _seen(tiny.network(), detector.Settings.paper()) is tiny.network()
    with pytest.raises(ValueError, match="odd"):
        detector.fit(
            jax.random.key(0),
            tiny.network(),
            tiny.pictures(2),
            settings=detector.Settings(neighbourhood=2),
        )


def test_the_finest_of_three_layers_is_seen_in_the_paper_only():
    network = dataclasses.replace(
        tiny.network(), layers=("fine", "middle", "coarse"), dims=(4, 5, 6)
    )
    usual = _seen(network, detector.Settings())
    assert (usual.layers, usual.dims) == (("middle", "coarse", "coarse@3"), (5, 6, 6))
    whole = _seen(network, detector.Settings(finest=True))
    assert whole.layers == ("fine", "middle", "coarse", "coarse@3")
    once = _seen(network, detector.Settings(neighbourhood=1))
    assert once.layers == ("middle", "coarse")
    assert _seen(network, detector.Settings.paper()) is network
    assert neighbourhoods.seen(usual, 1, finest=True) is usual


def test_a_detector_scores_by_both_scales_and_its_file_keeps_them(tmp_path):
    fitted = tiny.fitted(neighbourhood=3)
    image = tiny.pictures(1, kind="scratch")[0]
    scored = detector.score(fitted, image)
    seen = detector.align_image(fitted, image)
    maps = detector.log_maps(fitted, detector.features(fitted, seen))
    assert list(maps) == ["fine", "coarse", "coarse@3"]
    whole = scoring.aggregate(
        [jnp.asarray(m, jnp.float32) for m in oracles.averaged_scales(maps)]
    )
    np.testing.assert_allclose(scored.log_map, whole, rtol=1e-4, atol=1e-3)
    sharp = scoring.aggregate([maps["fine"], maps["coarse"]])
    heat = scoring.heat_map(sharp, scored.mask, tiny.network().image_size)
    want = scoring.enlarge(np.asarray(heat), image.shape[:2])
    np.testing.assert_allclose(scored.heat_map, want, rtol=1e-4, atol=1e-3)
    io.save(tmp_path / "m", fitted)
    again = io.load(tmp_path / "m", backbone=tiny.network())
    assert detector.score(again, image).score == scored.score


def test_a_file_that_names_a_layer_which_cannot_be_is_refused(tmp_path):
    fitted = tiny.fitted(neighbourhood=3)
    other = dataclasses.replace(
        fitted.backbone, layers=("fine", "coarse", "coarse@8"), dims=(5, 7, 7)
    )
    layers = dict(zip(other.layers, fitted.layers.values(), strict=True))
    io.save(tmp_path / "m", dataclasses.replace(fitted, backbone=other, layers=layers))
    with pytest.raises(io.ModelError, match="layers"):
        io.load(tmp_path / "m", backbone=tiny.network())
