"""Masks: margins, grids, files, and the automatic mask of an object."""

import jax
import numpy as np
import PIL.Image
import pytest
import tiny

from gladjax import detector, masks


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


def test_from_file_reads_what_is_bright(tmp_path):
    picture = np.zeros((8, 12), np.uint8)
    picture[2:6, 3:9] = 255
    PIL.Image.fromarray(picture).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(masks.from_file(tmp_path / "mask.png"), picture > 0)
    double = masks.from_file(tmp_path / "mask.png", shape=(16, 24))
    np.testing.assert_array_equal(double, np.kron(picture > 0, np.ones((2, 2), bool)))
    PIL.Image.fromarray(picture.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(masks.from_file(tmp_path / "deep.png"), picture > 0)


def test_a_mask_must_have_the_shape_of_its_images(tmp_path):
    path = tmp_path / "mask.png"

    def read(height, width, *like):
        PIL.Image.new("L", (width, height), 255).save(path)
        return masks.from_file(path, shape=(16, 16), like=like)

    assert read(256, 256, (256, 256)).all()
    assert read(30, 40, (300, 500), (30, 40)).all()
    for high, wide in ((250, 333), (64, 85), (1000, 1333)):
        with pytest.warns(UserWarning, match=r"mask\.png.* stretched"):
            read(high, wide, (300, 400))
    for high, wide in ((8, 3000), (256, 256), (400, 300)):
        with pytest.raises(ValueError, match=r"mask\.png.* another aspect ratio"):
            read(high, wide, (300, 400))


def test_from_file_names_a_bad_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png"):
        masks.from_file(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png"):
        masks.from_file(tmp_path / "text.png")
    PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=r"black\.png.*empty"):
        masks.from_file(tmp_path / "black.png")


def products(rng, number=8):
    images = rng.normal(200, 3, (number, 96, 96, 3))
    images[:, 30:60, 40:70] = rng.normal(90, 20, (number, 30, 30, 3))
    images[:, 10, 10] = 0  # A speck.
    return images.clip(0, 255).astype(np.uint8)


def test_the_automatic_mask_is_the_object_dilated(rng):
    mask = np.asarray(masks.automatic(products(rng)))
    wanted = np.zeros((96, 96), bool)
    wanted[27:63, 37:73] = True
    assert (mask ^ wanted).mean() < 0.01
    assert mask[30:60, 40:70].all()
    assert not mask[10, 10]


def test_what_the_object_encloses_belongs_to_it(rng):
    images = products(rng)
    images[:, 40:50, 50:60] = 200
    assert np.asarray(masks.automatic(images))[30:60, 40:70].all()


def test_what_varies_is_not_background(rng):
    images = np.full((8, 96, 96), 200, np.float32) + rng.normal(0, 2, (8, 96, 96))
    images[:, 40:60, 40:60] += rng.normal(0, 60, (8, 20, 20))
    mask = np.asarray(masks.automatic(images.astype(np.float32)))
    assert mask[40:60, 40:60].all()
    assert mask.mean() < 0.15


def test_without_a_background_everything_counts(rng):
    texture = rng.uniform(0, 255, (4, 64, 64)).astype(np.float32)
    assert masks.automatic(texture).all()
    assert masks.automatic(np.full((4, 64, 64), 9, np.uint8)).all()
    stripes = np.tile(np.repeat([40.0, 200.0, 200.0, 90.0], 8), (3, 64, 2))
    assert masks.automatic(stripes.astype(np.float32)).all()


def test_automatic_refuses_nothing(rng):
    with pytest.raises(ValueError, match="no images"):
        masks.automatic(np.zeros((0, 8, 8), np.float32))


def test_the_automatic_mask_of_real_products(mvtec_root):
    folder = mvtec_root / "toothbrush" / "train" / "good"
    paths = sorted(folder.glob("*.png"))[:12]
    opened = [PIL.Image.open(path).convert("RGB").resize((128, 128)) for path in paths]
    images = np.stack([np.asarray(image) for image in opened])
    mask = np.asarray(masks.automatic(images))
    assert 0.2 < mask.mean() < 0.6
    assert mask[40:90, 50:80].all()
    assert not mask[:, :20].any()


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_the_picture_shows_the_mask(channels):
    reference = np.full((16, 16, *channels), 200, np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    shown = masks.picture(reference, mask)
    assert shown[8, 8].tolist() == [200, 200, 200]
    assert shown[0, 0].tolist() == [70, 70, 70]
    assert shown[3, 3].tolist() == [255, 0, 0]


def test_the_papers_settings_leave_out_its_margin():
    assert detector.Settings.paper().margin == 1 / 16
    assert detector.Settings.paper(margin=0.0).margin == 0


def test_a_defect_at_the_border_is_scored_and_shown():
    fitted = tiny.fitted()
    image = tiny.pictures(1, first=20)[0]
    spoiled = image.copy()
    spoiled[:3] = 255 - spoiled[:3]  # Less than a margin of 1/16 and a cell.
    before, after = (detector.score(fitted, one) for one in (image, spoiled))
    assert after.score > before.score + 1
    top = np.unravel_index(after.heat_map.argmax(), after.heat_map.shape)
    assert top[0] < 5
