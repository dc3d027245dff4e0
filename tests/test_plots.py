"""Pictures of heat maps."""

import io

import numpy as np
import PIL.Image
import pytest

from gladjax import plots

GREY = np.full((20, 30, 3), 90, np.uint8)


def test_the_calm_part_of_an_overlay_is_the_image(rng):
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    heat = np.zeros((20, 30), np.float32)
    heat[12:, 20:] = 5
    picture = plots.overlay(image, heat, limits=(0.0, 5.0))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:12], image[:12])
    strongest = 0.75 * np.array(plots.HEAT[-1]) + 0.25 * image[12:, 20:]
    np.testing.assert_allclose(picture[12:, 20:], strongest, atol=0.51)


def test_an_overlay_is_the_image_and_the_heat_in_shares(rng):
    image = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    heat = rng.random((40, 50)).astype(np.float32)
    got = plots.overlay(image, heat, limits=(0.0, 1.0), strength=0.6).astype(float)
    anchors = np.array(plots.HEAT, float)
    for row, column in np.ndindex(40, 50):
        share = float(heat[row, column])
        left = min(int(4 * share), 3)
        between = 4 * share - left
        colour = (1 - between) * anchors[left] + between * anchors[left + 1]
        part = 0.6 * np.sqrt(share)
        wanted = (1 - part) * image[row, column] + part * colour
        assert np.all(np.abs(got[row, column] - wanted) < 1.5)


def test_an_overlay_rises_with_the_heat():
    heat = np.tile(np.linspace(0, 1, 30, dtype=np.float32), (20, 1))
    row = plots.overlay(np.zeros((20, 30, 3), np.uint8), heat)[0].astype(int)
    light = row @ np.array([299, 587, 114])
    assert light[0] == 0
    assert np.all(np.diff(light[14:]) > 0)  # The median is where colours begin.


def test_a_coarse_heat_map_covers_the_image():
    heat = np.array([[0, 0], [0, 1]], np.float32)
    picture = plots.overlay(GREY, heat, limits=(0.0, 1.0))
    assert picture.shape == GREY.shape
    np.testing.assert_array_equal(picture[0, 0], GREY[0, 0])
    assert picture[-1, -1].astype(int)[0] > 180


def test_limits_keep_a_normal_image_calm():
    heat = np.linspace(0, 10, 101).reshape(1, 101)
    assert plots.limits(heat) == (5.0, 10.0)
    assert plots.limits(heat, threshold=20.0) == (5.0, 35.0)
    assert plots.limits(heat, threshold=6.0) == (5.0, 10.0)
    assert plots.limits(np.full((2, 2), np.nan)) == (0.0, 1.0)
    assert plots.limits(np.array([[1.0, np.inf]])) == (1.0, 1.0)


def test_colours_of_corner_cases():
    values = np.array([[np.nan, -np.inf, 0.0, 1.0, np.inf]])
    picture = plots.colours(values)
    np.testing.assert_array_equal(picture[0, 0], [0, 0, 0])
    np.testing.assert_array_equal(picture[0, 1], plots.COUNT[0])
    np.testing.assert_array_equal(picture[0, 2], plots.COUNT[0])
    np.testing.assert_array_equal(picture[0, 3], plots.COUNT[-1])
    np.testing.assert_array_equal(picture[0, 4], plots.COUNT[-1])
    constant = plots.colours(np.full((2, 3), 7.0))
    assert np.all(constant == np.array(plots.COUNT[0]))


def test_the_score_is_written_above_input_and_overlay(rng):
    image = rng.integers(0, 256, (64, 96, 3)).astype(np.uint8)
    heat = rng.normal(size=(16, 16)).astype(np.float32)
    low = plots.scored_picture(image, heat, 1.25, limits=(0.0, 2.0))
    high = plots.scored_picture(image, heat, 987.5, limits=(0.0, 2.0), note="ünder")
    assert low.shape == high.shape == (64 + plots.TEXT + 8, 96 + 4 + 96, 3)
    bar = plots.TEXT + 8
    np.testing.assert_array_equal(low[bar:, :96], image)
    over = plots.overlay(image, heat, limits=(0.0, 2.0))
    np.testing.assert_array_equal(low[bar:, 100:], over)
    assert np.any(low[:bar] < 128), "there is no text"
    assert np.any(low[:bar] != high[:bar]), "the text does not depend on the score"


def test_pictures_of_unequal_height_stand_beside_each_other():
    picture = plots.beside([GREY, GREY[:5]])
    assert picture.shape == (20, 64, 3)
    assert np.all(picture[5:, 34:] == 255)
    assert plots.beside([GREY, GREY], gap=0).shape == (20, 60, 3)
    with pytest.raises(ValueError, match="no picture"):
        plots.beside([])


def test_outline_draws_the_border_of_the_mask_only():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    picture = plots.outline(GREY, mask, colour=(1, 2, 3))
    drawn = np.all(picture == (1, 2, 3), axis=-1)
    expected = mask.copy()
    expected[6:14, 11:19] = False
    np.testing.assert_array_equal(drawn, expected)


def test_maps_of_weights_and_activity_are_whole_cells():
    active = np.array([[1, 2], [3, 9]])
    picture = plots.activity_map(active, side=9)
    assert picture.shape == (8, 8, 3)
    np.testing.assert_array_equal(picture[0, 0], plots.COUNT[0])
    np.testing.assert_array_equal(picture[7, 7], plots.COUNT[-1])
    empty = plots.weight_map(np.zeros((3, 3), np.float32), side=3)
    assert np.all(empty == np.array(plots.COUNT[0]))


def test_png_keeps_every_pixel(rng):
    picture = rng.integers(0, 256, (7, 5, 3)).astype(np.uint8)
    with PIL.Image.open(io.BytesIO(plots.png(picture))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_refuses_limits_and_strength_out_of_range():
    heat = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="limits must be finite"):
        plots.overlay(GREY, heat, limits=(0.0, np.inf))
    with pytest.raises(ValueError, match="strength"):
        plots.overlay(GREY, heat, strength=1.5)
