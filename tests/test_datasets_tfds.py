"""The builders of tensorflow-datasets, on tiny trees, without TensorFlow."""

import importlib.util
import sys

import numpy as np
import pytest

from gladjax import datasets, images
from gladjax.datasets import tfds as builders

MISSING = [
    name
    for name in ("tensorflow_datasets", "array_record")
    if importlib.util.find_spec(name) is None
]
needs_extra = pytest.mark.skipif(
    bool(MISSING), reason=f"the extra tfds is not installed: {', '.join(MISSING)}"
)


@pytest.fixture
def category(tmp_path):
    """A synthetic set that stands in for a category of MVTec AD."""
    options = {"num_train": 12, "num_good": 2, "num_bad": 1, "size": 24}
    datasets.write_synthetic(tmp_path / "made", **options)
    (tmp_path / "manual").mkdir()
    (tmp_path / "made" / "texture").rename(tmp_path / "manual" / "grid")
    return datasets.mvtec(tmp_path / "manual", "grid")


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(datasets.DatasetError, match=r"pip install gladjax\[tfds\]"):
        builders.examples("mvtec_ad/grid", "train", data_dir=tmp_path)
    with pytest.raises(datasets.DatasetError, match=r"pip install gladjax\[tfds\]"):
        builders.prepare("mvtec_ad/grid", data_dir=tmp_path, manual_dir=tmp_path)


@needs_extra
@pytest.mark.filterwarnings("ignore")
def test_records_give_the_pixels_of_the_folder(tmp_path, category):
    places = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "manual"}
    builders.prepare("mvtec_ad/grid", **places)
    for split in ("train", "test"):
        found = builders.examples("mvtec_ad/grid", split, data_dir=tmp_path / "data")
        records = getattr(category, split)
        assert found.labels == tuple(record.label for record in records)
        assert found.kinds == tuple(record.kind for record in records)
        for record, image, mask in zip(records, found.images, found.masks, strict=True):
            np.testing.assert_array_equal(image, images.read(record.image))
            np.testing.assert_array_equal(mask, datasets.read_mask(record))
    assert "tensorflow" not in sys.modules
    assert len(found.images[1:3]) == 2
    np.testing.assert_array_equal(found.images[-1], image)
    with pytest.raises(IndexError):
        found.images[len(found.images)]


@needs_extra
@pytest.mark.filterwarnings("ignore")
def test_the_library_loads_it_by_name(tmp_path, category):
    import tensorflow_datasets as tfds

    builders.register()
    builder = tfds.builder(
        "mvtec_ad/grid", data_dir=tmp_path / "data", file_format="array_record"
    )
    config = tfds.download.DownloadConfig(manual_dir=str(tmp_path / "manual"))
    builder.download_and_prepare(download_config=config)
    source = builder.as_data_source("test")
    assert source[0]["image"].shape == (24, 24, 3)
    assert source[0]["mask"].shape == (24, 24, 1)
    assert builder.info.splits["train"].num_examples == len(category.train)


@needs_extra
@pytest.mark.filterwarnings("ignore")
def test_dagm_is_prepared_from_its_layout(tmp_path):
    for part in ("Train", "Test"):
        for i in range(3):
            path = tmp_path / "manual" / "dagm2007" / "Class3" / part / f"000{i}.PNG"
            images.write_png(path, np.full((4, 6), 10 * i, np.uint8))
        mask = np.eye(4, 6) * 255
        images.write_png(path.parent / "Label" / "0002_label.PNG", mask)
    places = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "manual"}
    builders.prepare("dagm2007/class3", **places)
    test = builders.examples("dagm2007/class3", "test", data_dir=tmp_path / "data")
    assert test.labels == (0, 0, 1)
    assert test.masks[2].sum() == 4
    assert not test.masks[0].any()


@needs_extra
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(datasets.DatasetError, match="not prepared"):
        builders.examples("mvtec_ad/grid", "train", data_dir=tmp_path)
    with pytest.raises(datasets.DatasetError, match="there are: mvtec_ad"):
        builders.examples("mvtec_ad/gird", "train", data_dir=tmp_path)
    places = {"data_dir": tmp_path / "data", "manual_dir": tmp_path / "manual"}
    with pytest.raises(datasets.DatasetError, match="MVTec AD from https"):
        builders.prepare("mvtec_ad/grid", **places)
    images.write_png(tmp_path / "manual" / "tile" / "train" / "0.png", np.eye(4))
    with pytest.raises(datasets.DatasetError, match="no category 'grid'"):
        builders.prepare("mvtec_ad/grid", **places)
