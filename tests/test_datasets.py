"""The interface of data sets, the MVTec layout and the ELPV split."""

import collections
import io
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest

from gladjax import datasets, images

NEAREST = PIL.Image.Resampling.NEAREST


def write(path, size=(6, 4), value=0):
    """Writes a tiny grey image, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", size, value).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    """Two categories in the MVTec layout."""
    for i in range(3):
        write(tmp_path / f"bolt/train/good/00{i}.png", value=i)
        write(tmp_path / f"nut/train/good/00{i}.png", value=i)
    for i in range(2):
        write(tmp_path / f"bolt/test/good/00{i}.png")
        write(tmp_path / f"bolt/test/scratch/00{i}.png")
        write(tmp_path / f"bolt/ground_truth/scratch/00{i}_mask.png", value=255)
    write(tmp_path / "bolt/test/dent/000.jpg")
    write(tmp_path / "bolt/ground_truth/dent/000_mask.png", value=255)
    (tmp_path / "bolt/test/dent/readme.txt").write_text("no image")
    (tmp_path / "bolt/test/.hidden").mkdir()
    write(tmp_path / "bolt/train/good/.000.png")
    return tmp_path


def test_the_layout_is_understood(root):
    dataset = datasets.mvtec(root, "bolt")
    assert (dataset.name, dataset.category) == ("mvtec", "bolt")
    assert [r.image.name for r in dataset.train] == ["000.png", "001.png", "002.png"]
    assert {r.label for r in dataset.train} == {0}
    counts = collections.Counter((r.kind, r.label) for r in dataset.test)
    assert counts == {("good", 0): 2, ("scratch", 1): 2, ("dent", 1): 1}
    assert dataset.test[2].image.name == "000.jpg"
    assert dataset.test[2].mask == root / "bolt/ground_truth/dent/000_mask.png"
    assert dataset.train + dataset.test == dataset.records
    assert dataset.has_masks


def test_the_order_does_not_depend_on_the_file_system(root, monkeypatch):
    expected = datasets.mvtec(root, "bolt")
    iterdir = type(root).iterdir
    monkeypatch.setattr(type(root), "iterdir", lambda p: sorted(iterdir(p))[::-1])
    assert datasets.mvtec(root, "bolt") == expected


@pytest.mark.parametrize("category", ["bolts", "../bolt", "", ".", "bolt/train"])
def test_an_unknown_category_lists_the_others(root, category):
    with pytest.raises(datasets.DatasetError, match="there are: bolt, nut"):
        datasets.mvtec(root, category)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(datasets.DatasetError, match="nowhere: no such folder"):
        datasets.mvtec(tmp_path / "nowhere", "bolt")
    with pytest.raises(datasets.DatasetError, match=r"none \(no folder with train"):
        datasets.mvtec(tmp_path, "bolt")


def test_an_empty_training_folder_is_named(root):
    for path in (root / "nut/train/good").iterdir():
        path.unlink()
    with pytest.raises(datasets.DatasetError, match="nut/train/good: no images"):
        datasets.mvtec(root, "nut")


def test_a_missing_mask_is_told_or_refused(root):
    """Pixel figures are of the images whose pixels are known."""
    whole = datasets.masks(datasets.mvtec(root, "bolt"), shape=(8, 8))
    assert whole.notes[0] == "masks: 3 of 3 anomalous test images have one"
    assert all(mask is not None for mask in whole.masks)
    (root / "bolt/ground_truth/scratch/001_mask.png").unlink()
    dataset = datasets.mvtec(root, "bolt")
    assert (len(dataset.test), dataset.has_masks) == (5, False)
    found = datasets.masks(dataset, shape=(8, 8))
    assert [m is None for m in found.masks] == [False] * 4 + [True]
    assert found.num_masks == 2
    assert "2 of 3 anomalous test images have one" in found.notes[0]
    assert "missing: " in found.notes[0]
    assert "test/scratch/001.png" in found.notes[0]
    with pytest.raises(datasets.DatasetError, match="there is no mask"):
        datasets.read_mask(dataset.test[-1])
    with pytest.raises(datasets.DatasetError, match=r"001\.png: its mask is missing"):
        datasets.load("mvtec", root=root, category="bolt", require_masks=True)
    shutil.rmtree(root / "bolt/ground_truth")
    none = datasets.masks(datasets.mvtec(root, "bolt"), shape=(8, 8))
    assert (none.masks, none.num_masks) == (None, 0)
    assert "0 of 3 anomalous test images have one, so no pixel figures" in none.notes[0]


@pytest.mark.parametrize(
    "name", ["000.png", "000.PNG", "000.bmp", "000_MASK.TIFF", "000_mask.jpg"]
)
def test_masks_of_other_names_and_formats_are_found(root, name):
    folder = root / "bolt/ground_truth/dent"
    (folder / "000_mask.png").rename(folder / "gone")
    PIL.Image.new("L", (6, 4), 255).save(folder / name)
    dataset = datasets.mvtec(root, "bolt")
    assert dataset.has_masks
    assert dataset.test[2].mask == folder / name


def test_odd_masks_are_told(root):
    folder = root / "bolt/ground_truth/scratch"
    dataset = datasets.mvtec(root, "bolt")
    spot = np.zeros((4, 6), np.uint8)
    spot[1:3, 2:4] = 255
    for path in root.glob("bolt/ground_truth/*/*.png"):
        PIL.Image.fromarray(spot).save(path)
    assert len(datasets.masks(dataset, shape=(4, 6)).notes) == 1
    PIL.Image.fromarray(255 - spot).save(folder / "000_mask.png")
    PIL.Image.fromarray(0 * spot).save(folder / "001_mask.png")
    found = datasets.masks(dataset, shape=(4, 6))
    assert found.num_masks == 2
    assert found.masks[-1] is None
    assert "2 of 3" in found.notes[0]
    assert "all black" in found.notes[1]
    assert "scratch/001_mask.png" in found.notes[1]
    assert "is it inverted?" in found.notes[2]
    assert "scratch/000_mask.png" in found.notes[2]
    with pytest.raises(datasets.DatasetError, match="the mask is all black"):
        datasets.require(dataset)


def test_a_jpeg_mask_is_one_region(tmp_path):
    """Its black is not black: what is brighter than half counts."""
    image = write(tmp_path / "a.png", (64, 64))
    values = np.zeros((64, 64), np.uint8)
    values[20:37, 11:30] = 255
    PIL.Image.fromarray(values).save(tmp_path / "m.jpg", quality=60)
    record = datasets.Record(image, 1, "dent", tmp_path / "m.jpg", "test")
    assert (images.read(record.mask).any(-1) != (values > 0)).any()
    np.testing.assert_array_equal(datasets.read_mask(record), values > 0)


def test_no_test_images_means_no_masks(root):
    dataset = datasets.mvtec(root, "nut")
    assert dataset.test == ()
    assert not dataset.has_masks


def test_masks_are_resized_by_nearest_neighbour(tmp_path):
    image = write(tmp_path / "a.png", (8, 6))
    values = np.random.default_rng(0).integers(0, 2, (6, 8), np.uint8) * 255
    PIL.Image.fromarray(values).save(tmp_path / "m.png")
    record = datasets.Record(image, 1, "dent", tmp_path / "m.png", "test")
    np.testing.assert_array_equal(datasets.read_mask(record), values > 0)
    for shape in ((6, 8), (3, 4), (4, 3), (13, 9), (256, 256)):
        expected = PIL.Image.fromarray(values).resize(
            shape[::-1], PIL.Image.Resampling.NEAREST
        )
        np.testing.assert_array_equal(
            datasets.read_mask(record, shape=shape), np.asarray(expected) > 0
        )


def test_any_value_but_black_is_anomalous_and_a_folder_is_united(tmp_path):
    image = write(tmp_path / "a.png", (2, 2))
    for i, values in enumerate(([[1, 0], [0, 0]], [[0, 0], [0, 200]])):
        write(tmp_path / f"m/{i}.png")
        PIL.Image.fromarray(np.array(values, np.uint8)).save(tmp_path / f"m/{i}.png")
    record = datasets.Record(image, 1, "dent", tmp_path / "m", "test")
    assert datasets.read_mask(record).tolist() == [[True, False], [False, True]]
    (tmp_path / "none").mkdir()
    with pytest.raises(datasets.DatasetError, match="no mask in this folder"):
        datasets.read_mask(record._replace(mask=tmp_path / "none"))


def test_a_normal_image_has_an_empty_mask(tmp_path):
    record = datasets.Record(write(tmp_path / "a.png", (3, 2)), 0, "good", None, "test")
    assert datasets.read_mask(record).shape == (2, 3)
    assert not datasets.read_mask(record, shape=(5, 4)).any()


def test_a_mask_of_another_size_names_both(tmp_path):
    image = write(tmp_path / "a.png", (8, 6))
    mask = write(tmp_path / "m.png", (8, 5))
    record = datasets.Record(image, 1, "dent", mask, "test")
    with pytest.raises(datasets.DatasetError, match=r"m\.png.*5 x 8.*a\.png is 6 x 8"):
        datasets.read_mask(record, shape=(6, 8))


def test_readable_finds_damage_before_any_work(root):
    dataset = datasets.mvtec(root, "bolt")
    assert datasets.readable(dataset) == dataset
    (root / "bolt/train/good/001.png").write_bytes(b"damaged")
    with pytest.raises(images.ImageError, match=r"001\.png"):
        datasets.readable(dataset)
    write(root / "bolt/ground_truth/dent/000_mask.png", (3, 3), 255)
    found = datasets.readable(dataset, skip_bad=True)
    assert len(found.train) == 2
    assert {r.kind for r in found.test} == {"good", "scratch"}
    assert ["001.png" in str(found.errors[0]), "3 x 3" in str(found.errors[1])] == [
        True
    ] * 2
    for record in dataset.train:
        record.image.write_bytes(b"")
    with pytest.raises(datasets.DatasetError, match="no training image"):
        datasets.readable(dataset, skip_bad=True)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("transistor", (213, 60, 40)),
        ("toothbrush", (48, 12, 30)),
        ("screw", (320, 41, 119)),
    ],
)
def test_real_categories_are_complete(mvtec_root, name, counts):
    dataset = datasets.mvtec(mvtec_root, name)
    labels = [record.label for record in dataset.test]
    assert (len(dataset.train), labels.count(0), labels.count(1)) == counts
    assert dataset.has_masks
    mask = datasets.read_mask(dataset.test[-1], shape=(256, 256))
    assert 0 < mask.mean() < 0.5


def test_the_elpv_split_is_the_documented_one():
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    dataset = datasets.elpv()
    labels = [record.label for record in dataset.test]
    assert (len(dataset.train), labels.count(0), labels.count(1)) == (300, 200, 313)
    import elpv_dataset

    folder = (datasets.base.pathlib.Path(elpv_dataset.__file__).parent) / "data"
    table = np.loadtxt(folder / "labels.csv", dtype=str)
    cells = sorted(p for p, y, kind in table if float(y) == 0 and kind == "mono")
    order = np.random.RandomState(0).permutation(len(cells))
    train = {folder / cells[i] for i in order[:300]}
    test = {folder / cells[i] for i in order[300:500]}
    assert {r.image for r in dataset.train} == train
    assert {r.image for r in dataset.test if not r.label} == test
    assert not dataset.has_masks
    poly = datasets.elpv(category="poly")
    labels = [record.label for record in poly.test]
    assert (len(poly.train), labels.count(0), labels.count(1)) == (300, 200, 402)
    assert images.read(poly.train[0].image).shape == (300, 300, 3)


def test_elpv_refuses_what_it_cannot_use(tmp_path, monkeypatch):
    with pytest.raises(datasets.DatasetError, match="there are: mono, poly"):
        datasets.elpv(category="thin")
    with pytest.raises(ValueError, match="num_train"):
        datasets.elpv(root=tmp_path, num_train=0)
    with pytest.raises(datasets.DatasetError, match=r"labels\.csv: not readable"):
        datasets.elpv(root=tmp_path)
    (tmp_path / "labels.csv").write_text("images/1.png 0.0 mono\n")
    with pytest.raises(datasets.DatasetError, match="1 normal cells, not 2"):
        datasets.elpv(root=tmp_path, num_train=2)
    with pytest.raises(datasets.DatasetError, match=r"1\.png: no such image"):
        datasets.elpv(root=tmp_path, num_train=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(datasets.DatasetError, match="pip install elpv-dataset"):
        datasets.elpv()


@pytest.mark.parametrize(
    "line",
    [
        "a.png 0.0",
        "a.png zero mono",
        "a.png nan mono",
        "a.png 2 mono",
        "../a 0 mono",
        "/a 0 mono",
    ],
)
def test_bad_label_lines_are_named(tmp_path, line):
    (tmp_path / "labels.csv").write_text(f"a.png 0 mono\n\n{line}\n")
    with pytest.raises(datasets.DatasetError, match="line 3"):
        datasets.elpv(root=tmp_path)


MASKS = {}
for _format in ("PNG", "JPEG", "BMP", "TIFF"):
    _stream = io.BytesIO()
    PIL.Image.new("L", (12, 8), 255).save(_stream, _format)
    MASKS[_format.lower()] = _stream.getvalue()


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_mask_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    image = write(folder / "image.png", size=(12, 8))
    suffix = data.draw(st.sampled_from(sorted(MASKS)))
    damaged = bytearray(MASKS[suffix])
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    for _ in range(data.draw(st.integers(0, 8)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path = folder / f"mask.{suffix}"
    path.write_bytes(damaged)
    record = datasets.Record(image, 1, "dent", path, "test")
    mask, message = np.zeros((4, 6), bool), path.name
    try:
        mask = datasets.read_mask(record, shape=(4, 6))
    except (datasets.DatasetError, images.ImageError) as error:
        message = str(error)
    assert path.name in message
    assert (mask.shape, mask.dtype) == ((4, 6), bool)


@hypothesis.given(st.binary(max_size=60))
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_label_table_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "labels"
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_bytes(data)
    with pytest.raises(datasets.DatasetError):
        datasets.elpv(root=folder)
