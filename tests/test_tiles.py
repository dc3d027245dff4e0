"""Large images tile by tile: one model, whose maps are those of the whole image."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from gladjax import (
    backbone,
    cli,
    detector,
    features,
    files,
    images,
    io,
    neighbourhoods,
    weights,
)
from gladjax.detector import Settings, tiles

SIZE = 64, 96
FEW = {"num_components": 6, "max_steps": 3}
TILES = {"tile_rows": 2, "tile_columns": 3, "tile_overlap": 16}
# The network sees 4 pixels far, and its means over 3 x 3 cells 8 more.


def network(size=SIZE):
    return dataclasses.replace(tiny.network(), image_size=size)


def pictures(count, first=0):
    return [one[:64] for one in tiny.pictures(count, first=first, size=96)]


@pytest.fixture(scope="module")
def both():
    """The same fit without and with tiles, and its report."""
    return [
        detector.fit_info(
            jax.random.key(0),
            network(),
            pictures(6),
            settings=Settings(**FEW, **more),
            folds=2,
        )
        for more in ({}, TILES)
    ]


def test_tiles_cover_every_map_once():
    for rows, columns, overlap in ((1, 2, 0), (2, 3, 8), (4, 4, 9), (8, 12, 500)):
        given = Settings(tile_rows=rows, tile_columns=columns, tile_overlap=overlap)
        plan = tiles.plan(network(), given)
        assert len(plan.tiles) == rows * columns
        for name, grid in plan.grids.items():
            stride = plan.strides[name]
            seen = np.zeros(grid, int)
            for tile in plan.tiles:
                cells = plan.cells(name, tile)
                seen[cells] += 1
                inside = plan.cells(name, tile, within=tile.window)
                whole = np.indices(grid)[(slice(None), *cells)]
                offset = np.array(tile.window)[:, None, None] // stride
                sides = tuple(side // stride for side in plan.window)
                np.testing.assert_array_equal(
                    np.indices(sides)[(slice(None), *inside)] + offset, whole
                )
                for start, side, end in zip(
                    tile.window, plan.window, SIZE, strict=True
                ):
                    assert 0 <= start <= end - side
            assert (seen == 1).all()


def test_a_tiled_map_is_that_of_the_whole_image(both):
    """Where the overlap is as far as the network sees, within rounding."""
    image = pictures(1, first=9)[0]
    (whole, _), (tiled, _) = both
    expected = features.extract_batches(whole.backbone, [image])
    found = detector.features(tiled, detector.align_image(tiled, image))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value[0], rtol=1e-5, atol=1e-6)
    one, other = (detector.score(each, image) for each in (whole, tiled))
    np.testing.assert_allclose(other.log_map, one.log_map, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(other.heat_map, one.heat_map, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(other.score, one.score, rtol=1e-4)
    logs = detector.log_maps(tiled, found)
    again = detector.summarise(
        tiled, logs, detector.align_image(tiled, image), image.shape[:2]
    )
    np.testing.assert_allclose(again.log_map, other.log_map, rtol=1e-5, atol=1e-4)


def test_there_is_one_model_and_one_calibration(both):
    """The local weights are on the grid of the whole image."""
    (whole, info), (tiled, report) = both
    for name, layer in whole.layers.items():
        own = tiled.layers[name]
        np.testing.assert_allclose(own.mixture.means, layer.mixture.means, atol=1e-5)
        assert own.local_weights.shape == layer.local_weights.shape
        np.testing.assert_array_equal(
            own.local_weights.components, layer.local_weights.components
        )
        assert own.prepared.addends.shape[1] == 0
    np.testing.assert_allclose(report.left_out, info.left_out, rtol=1e-4)


def test_features_on_disk_are_those_in_memory(monkeypatch):
    """To the last bit; and bands of rows are the whole map within rounding."""
    made = []

    def fitted():
        return detector.fit_info(
            jax.random.key(0),
            network(),
            pictures(6),
            settings=Settings(**FEW, **TILES, max_samples=500, keep_statistics=True),
            folds=2,
        )

    def held(shape, dtype):
        made.append(np.zeros(shape, dtype))
        return made[-1]

    on_disk, report = fitted()
    with monkeypatch.context() as patch:
        patch.setattr(files, "scratch", held)
        in_memory, info = fitted()
    assert [len(one) for one in made] == [6, 6, 6]
    jax.tree.map(np.testing.assert_array_equal, on_disk.layers, in_memory.layers)
    np.testing.assert_array_equal(report.left_out, info.left_out)
    monkeypatch.setattr(weights.bands, "POSITIONS", 48)
    banded, info = fitted()
    for name, layer in banded.layers.items():
        whole = on_disk.layers[name].local_weights
        for field in ("starts", "components", "log_weights"):
            own = getattr(layer.local_weights, field)
            np.testing.assert_array_equal(own, getattr(whole, field))
    np.testing.assert_allclose(report.left_out, info.left_out, rtol=1e-5)


def test_tiles_are_worked_out_once(both, monkeypatch):
    """Not for every image; and for another network anew."""
    tiled = both[1][0]
    one, other = pictures(2, first=9)
    detector.score(tiled, one)
    given = tiles.plan(tiled.backbone, tiled.settings)
    with monkeypatch.context() as patch:
        patch.setattr(features, "shapes", None)
        detector.score_batch(tiled, [one, other])
        again = neighbourhoods.select(network(), tiled.backbone.layers)
        assert tiles.plan(again, tiled.settings) is given
        assert (
            detector.log_maps(
                both[0][0],
                detector.features(both[0][0], detector.align_image(both[0][0], one)),
            ).keys()
            == tiled.layers.keys()
        )
    assert tiles.plan(network((128, 96)), tiled.settings).window != given.window


@pytest.mark.parametrize("which", [0, 1])
def test_a_bad_image_is_named(both, which):
    good = pictures(1)[0]
    bad = good.astype(np.float32) - 300
    with pytest.raises(images.ImageError, match="image 1"):
        detector.score_batch(both[which][0], [good, bad])
    with pytest.raises(images.ImageError, match=r"image\b(?! 0)"):
        detector.score(both[which][0], bad)


def test_a_saved_model_keeps_its_tiles(both, tmp_path):
    tiled = both[1][0]
    io.save(tmp_path / "m", tiled)
    again = io.load(tmp_path / "m", backbone=network())
    assert again.settings == tiled.settings
    assert next(iter(again.layers.values())).prepared.addends.shape[1] == 0
    image = pictures(1, first=9)[0]
    assert detector.score(again, image).score == detector.score(tiled, image).score
    odd = dataclasses.replace(tiled.settings, tile_columns=5)
    io.save(tmp_path / "odd", dataclasses.replace(tiled, settings=odd))
    with pytest.raises(io.ModelError, match="odd: of its tiles, 64 x 96 pixels do not"):
        io.load(tmp_path / "odd", backbone=network())


def test_weights_of_a_part_are_those_of_the_whole(rng):
    local = weights.listed(
        rng.dirichlet(np.ones(4), (5, 7)) * (rng.random((5, 7, 4)) > 0.4)
    )
    rows, columns = slice(1, 4), slice(2, 7)
    part = weights.cut(local, rows, columns)
    assert part.shape == (3, 5)
    np.testing.assert_array_equal(
        weights.dense(part, 4), weights.dense(local, 4)[rows, columns]
    )


@pytest.mark.parametrize(
    ("size", "more", "words"),
    [
        ((64, 96), {"tile_rows": 3}, "the image size 72 96 does"),
        ((64, 90), {"tile_rows": 2}, "cells are not of whole pixels"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(size, more, words):
    with pytest.raises(ValueError, match=words):
        detector.fit(
            jax.random.key(0), network(size), pictures(2), settings=Settings(**more)
        )


def run(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(cli.cli, [*map(str, arguments), "--quiet"])


def test_the_command_makes_and_scores_models_of_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(
        backbone, "load", lambda *a, image_size=None, **k: network(image_size or SIZE)
    )
    for i, image in enumerate(pictures(6)):
        images.write_png(tmp_path / f"good/{i}.png", image)
    few = ["--num-components", 6, "--calibration", "none", "--out", tmp_path / "m"]
    fit = ["fit", tmp_path / "good", *few, "--image-size", *SIZE]
    assert run(*fit, "--tiles", "2x3", "--tile-overlap", 16).exit_code == 0
    settings = io.load(tmp_path / "m").settings
    assert {name: getattr(settings, name) for name in TILES} == TILES
    result = run("score", tmp_path / "m", tmp_path / "good/0.png", "--jsonl")
    assert result.exit_code == 0, result.stderr
    assert np.isfinite(json.loads(result.stdout)["score"])
    for more, words in (
        (["--tiles", "2by3"], "'2by3' is not ROWSxCOLS"),
        (["--tiles", "0x3"], "tile_rows must be 1 to 256, not 0"),
        (["--tiles", "3x3"], "the image size 72 96 does"),
    ):
        result = run(*fit, *more)
        assert words in f"{result.exception} {result.stderr}"
    result = run(*fit[:-3], "--tiles", "2x2")
    assert "tiles are for a large --image-size" in result.stderr


@pytest.mark.slow
def test_seams_of_a_deep_network_vanish_with_the_overlap():
    """It sees 169 pixels far, but little of what is beyond half of it.

    Windows of two tiles are moved inside by their overlap, so it counts twice.
    """
    net = backbone.random(jax.random.key(0), "efficientnet_lite0", image_size=(512, 32))
    image = np.asarray(tiny.pictures(1, size=512)[0][:, :32], np.float32)
    whole = features.extract_batches(net, [image], batch_size=1)
    errors = []
    for overlap in (0, 16, 48, 96):
        plan = tiles.plan(net, Settings(tile_rows=2, tile_overlap=overlap))
        found = tiles.joined(plan, tiles.features(net, plan, image))
        errors.append(
            [
                float(np.abs(found[name] - value[0]).max() / value.std())
                for name, value in whole.items()
            ]
        )
    for layer in range(3):
        assert errors[0][layer] > 1
        assert errors[3][layer] <= 1e-4
    assert errors[1][2] > 3 * errors[2][2] > errors[3][2]
    assert errors[2][2] <= 0.3
