"""Masks: margins, grids, files, and the automatic mask of an object."""

import jax
import numpy as np
import pytest

from gladjax import masks


def test_margin_removes_a_sixteenth_of_each_side():
    mask = np.asarray(masks.margin((256, 128)))
    assert mask[16:240, 8:120].all()
    assert mask.sum() == 224 * 112


def test_margin_of_a_tiny_image_keeps_something():
    for side in range(1, 6):
        assert masks.margin((side, side), fraction=0.49).any()


def test_margin_refuses_bad_options():
    with pytest.raises(ValueError, match="fraction"):
        masks.margin((8, 8), fraction=0.5)
    with pytest.raises(ValueError, match="shape"):
        masks.margin((0, 8))


def naive_to_grid(mask, grid_shape):
    """Counts sub-pixels on the common refinement of both grids."""
    h, w = mask.shape
    fine = np.kron(mask, np.ones(grid_shape, bool))  # h * gh rows, w * gw columns
    out = np.zeros(grid_shape, bool)
    for i in range(grid_shape[0]):
        for j in range(grid_shape[1]):
            out[i, j] = fine[i * h : (i + 1) * h, j * w : (j + 1) * w].mean() >= 0.5
    return out


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (3, 16), (20, 18)])
def test_to_grid_matches_counting(rng, variant, grid):
    mask = rng.random((16, 12)) < 0.5
    got = variant(lambda m: masks.to_grid(m, grid))(mask)
    np.testing.assert_array_equal(np.asarray(got), naive_to_grid(mask, grid))


def test_a_cell_that_is_half_inside_counts():
    mask = np.zeros((4, 4), bool)
    mask[:, 0] = True  # Half of the first column of cells.
    assert np.asarray(masks.to_grid(mask, (2, 2)))[:, 0].all()
    mask[0, 0] = False  # Now a quarter of the first cell.
    assert not np.asarray(masks.to_grid(mask, (2, 2)))[0, 0]


def test_to_grid_keeps_its_own_grid_and_maps_over_a_batch(rng):
    batch = rng.random((3, 8, 8)) < 0.5
    same = jax.vmap(lambda m: masks.to_grid(m, (8, 8)))(batch)
    np.testing.assert_array_equal(np.asarray(same), batch)


def test_to_grid_refuses_an_empty_grid():
    with pytest.raises(ValueError, match="grid_shape"):
        masks.to_grid(np.ones((4, 4), bool), (0, 2))
