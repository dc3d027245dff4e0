"""What the commands make of odd folders, files, depths, copies and masks."""

import dataclasses
import json
import pathlib
import shutil
import warnings

import numpy as np
import PIL.Image
import pytest
import tiny
from click.testing import CliRunner

from gladjax import backbone, cli, datasets, images, io
from gladjax.cli import inputs

FEW = ["--num-components", "4", "--quiet"]
FAST = [*FEW, "--calibration", "none"]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """Every network is the tiny one."""
    monkeypatch.setattr(backbone, "load", lambda *a, **k: tiny.network())


def run(*arguments):
    """Runs the command in this process; output and complaints, if it went well."""
    code, out, err = attempt(*arguments)
    assert code == 0, err
    return out, err


def attempt(*arguments):
    """Runs the command in this process; code or error, output, complaints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(cli.cli, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        return result.exception, result.stdout, result.stderr
    return result.exit_code, result.stdout, result.stderr


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)
    return path


def pictures(folder, count, *, change=lambda a: a, suffix="png", kind="good", first=0):
    """Writes synthetic images, changed, and returns the folder."""
    made = tiny.pictures(count, kind=kind, first=first)
    for i, array in enumerate(made):
        write(folder / f"{first + i:03d}.{suffix}", change(array))
    return folder


def deep(bits):
    """Makes an image one of so many bits in 16."""
    return lambda a: np.uint16(np.rint(a[..., 1] * ((2**bits - 1) / 255)))


def lit(a):
    """Gives an image a white pixel."""
    a = a.copy()
    a[0, 0] = 255
    return a


def grey(a):
    return a[..., 1]


def scores(model, *paths):
    out, err = run("score", model, *paths, "--jsonl", "--quiet")
    return [json.loads(line)["score"] for line in out.splitlines()], err


@pytest.mark.parametrize(
    ("change", "suffix", "words"),
    [
        (deep(12), "png", "16-bit files: 12 bits are used"),
        (deep(10), "tif", "16-bit files: 10 bits are used"),
        (lambda a: grey(a).astype(np.float32) / 255, "tif", "float files: read as 0"),
    ],
)
def test_pictures_of_any_depth_score_as_eight_bits(tmp_path, change, suffix, words):
    """The range is that of the training set, kept in the file, and said once."""
    plain = pictures(tmp_path / "plain", 6, change=lambda a: grey(lit(a)))
    odd = pictures(tmp_path / "odd", 6, change=lambda a: change(lit(a)), suffix=suffix)
    one = ["--num-components", 1, "--neighbourhood", 1, "--margin", 0.0625]
    for folder in (plain, odd):
        _, err = run("fit", folder, "--out", tmp_path / f"{folder.name}.m", *FAST, *one)
        assert err.count(words) == (folder == odd)
        assert err.count("files:") == (folder == odd)
    new = pictures(tmp_path / "new", 2, change=grey, first=9)
    same = pictures(tmp_path / "same", 2, change=change, suffix=suffix, first=9)
    expected, _ = scores(tmp_path / "plain.m", new)
    found, err = scores(tmp_path / "odd.m", same)
    assert "warning" not in err
    np.testing.assert_allclose(found, expected, rtol=0.02)
    # One image alone is dark, and read as all others.
    np.testing.assert_allclose(
        scores(tmp_path / "odd.m", same / f"009.{suffix}")[0], found[:1]
    )


def test_a_depth_can_be_declared(tmp_path):
    odd = pictures(tmp_path / "odd", 4, change=deep(10))
    out = ["--out", tmp_path / "m", *FAST]
    _, err = run("fit", odd, *out, "--bit-depth", 12)
    assert "12 bits are used, as said" in err
    known = images.from_notes(io.describe(tmp_path / "m").notes["learnt"])
    assert known.depth == (12, None)
    error, *_ = attempt("fit", odd, *out, "--bit-depth", 8)
    assert "does not fit into 8 bits" in str(error)


def test_a_range_unlike_that_learnt_from_is_warned_of_once(tmp_path):
    run("fit", pictures(tmp_path / "a", 4), "--out", tmp_path / "m", *FAST)
    dark = pictures(tmp_path / "dark", 3, change=deep(12))
    found, err = scores(tmp_path / "m", dark)
    assert len(found) == 3
    assert err.count("is the bit depth") == 1
    assert "dark/000.png" in err
    assert "3 images have a range unlike" in err
    assert scores(tmp_path / "m", pictures(tmp_path / "b", 2, first=9))[1] == ""


def test_an_image_of_another_depth_among_those_to_learn_from_is_told(tmp_path):
    folder = pictures(tmp_path / "a", 4)
    _, err = run("fit", folder, "--out", tmp_path / "m", *FAST)
    assert err == ""
    pictures(folder, 1, change=deep(12), first=9)
    pictures(folder, 1, change=deep(16), first=10)
    _, err = run("fit", folder, "--out", tmp_path / "m", *FAST)
    assert "much darker than the others" in err
    assert "009.png" in err
    assert "010.png" not in err


def test_pictures_of_heat_maps_show_deep_images(tmp_path):
    odd = pictures(tmp_path / "odd", 4, change=deep(12))
    run("fit", odd, "--out", tmp_path / "m", *FAST)
    run("score", tmp_path / "m", odd, "--heatmaps", tmp_path / "maps", "--quiet")
    assert images.read(tmp_path / "maps" / "000.png").mean() > 60


def test_equal_content_counts_once_and_is_named(tmp_path):
    """Ten images in five copies each are ten: too few for a threshold at 5 %."""
    folder = pictures(tmp_path / "a", 4)
    for i in range(4):
        data = (folder / f"{i:03d}.png").read_bytes()
        for j in range(5):
            (folder / f"copy{i}{j}.png").write_bytes(data)
    PIL.Image.open(folder / "000.png").save(folder / "other.bmp")
    out, err = run("fit", folder, "--out", tmp_path / "m", *FEW)
    assert "21 copies of other images" in err
    assert "copy00.png is" in err
    assert "and 18 more" in err
    assert "learnt from 4 images" in out
    described = io.describe(tmp_path / "m")
    assert (described.num_calibration, described.threshold) == (4, None)
    run("fit", pictures(tmp_path / "b", 4), "--out", tmp_path / "once", *FEW)
    new = pictures(tmp_path / "new", 2, first=9)
    assert scores(tmp_path / "m", new) == scores(tmp_path / "once", new)


def test_an_update_learns_nothing_twice(tmp_path):
    folder = pictures(tmp_path / "a", 4)
    run("fit", folder, "--out", tmp_path / "m", "--keep-statistics", *FAST)
    again = pictures(tmp_path / "b", 3, first=2)  # Two of them again.
    out, err = run(
        "update", tmp_path / "m", again, "--output", tmp_path / "n", "--quiet"
    )
    assert "2 images learnt before" in err
    assert "learnt from 5 images" in out
    error, *_ = attempt("update", tmp_path / "n", again, "--output", tmp_path / "o")
    assert "every image was learnt before" in str(error)
    assert not (tmp_path / "o").exists()


def test_models_without_such_notes_read_as_before(tmp_path):
    fitted = tiny.fitted()
    io.save(tmp_path / "old", fitted, notes={})
    dark = pictures(tmp_path / "dark", 1, change=deep(12))
    found, err = scores(tmp_path / "old", dark)
    assert len(found) == 1
    assert err == ""


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    datasets.write_synthetic(root, num_train=6, num_good=3, num_bad=2, size=40)
    return root / "texture"


def copied(category, target):
    shutil.copytree(category, target)
    return target


def test_a_data_set_teaches_by_its_good_training_images_only(category, tmp_path):
    root = copied(category, tmp_path / "set")
    pictures(root / "train" / "bad", 2, kind="spot")
    expected = tmp_path / "expected"
    run("fit", root / "train" / "good", "--out", expected, *FAST)
    for what in (root, f"{root}/**/*.png", root / "train"):
        out, err = run("fit", what, "--out", tmp_path / "m", *FAST)
        assert "learnt from 6 images" in out
        assert f"learning from {root}/train/good" in err
        assert "train/bad (anomalous by its name)" in err
        if what != root / "train":
            assert f"{root}/test (beside train)" in err
            assert f"{root}/ground_truth (masks)" in err
        first, second = (io.container.read(p)[0] for p in (tmp_path / "m", expected))
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name])
    code, _, err = attempt("fit", tmp_path, "--out", tmp_path / "n", *FAST)
    assert code == 2
    assert "several data sets: set" in err


def test_only_what_is_good_is_learnt_from(tmp_path):
    for place in ("day1/OK", "day1/NG", "day2/a", "day2/masks", "ok.d"):
        pictures(tmp_path / place, 1)
    for name in ("b.jpg", "b_mask.png", "free_mask.png"):
        write(tmp_path / "day2" / name, tiny.pictures(1)[0])
    found = images.below(tmp_path, learn=True)
    assert [p.relative_to(tmp_path).as_posix() for p in found.paths] == [
        *("day1/OK/000.png", "day2/a/000.png", "day2/b.jpg", "day2/free_mask.png"),
        "ok.d/000.png",
    ]
    assert [note.split(" (")[0].removeprefix(f"{tmp_path}/") for note in found.notes]
    text = " ".join(found.notes)
    for words in ("day1/NG (anom", "day2/masks (masks)", "1 image in", "of others"):
        assert words in text
    assert len(images.below(tmp_path).paths) == 8


@pytest.mark.parametrize("name", ["@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX"])
def test_thumbnails_and_trash_of_storage_devices_are_left_out(tmp_path, name):
    folder = pictures(tmp_path / "a", 3)
    pictures(folder / name, 2, first=5)
    pictures(folder / ".hidden", 2, first=7)
    for what in (folder, f"{folder}/**/*.png"):
        out, err = run("fit", what, "--out", tmp_path / "m", *FAST)
        assert "learnt from 3 images" in out
        assert f"{name} (kept by a storage device)" in err
        assert ".hidden" not in err
        out, err = run("score", tmp_path / "m", what, "--quiet")
        assert len(out.splitlines()) == 3
        assert name in err


def test_links_to_folders_are_told(tmp_path):
    folder = pictures(tmp_path / "a", 3)
    (folder / "link").symlink_to(pictures(tmp_path / "b", 3, first=5))
    out, err = run("fit", folder, "--out", tmp_path / "m", *FAST)
    assert "learnt from 3 images" in out
    assert "a/link (a link; name it to follow it)" in err
    out, _ = run("score", tmp_path / "m", folder / "link", "--quiet")
    assert len(out.splitlines()) == 3


def test_names_that_lead_nowhere_are_bad_images_and_no_end(tmp_path):
    loop, nul = tmp_path / "loop.png", pathlib.Path("a\0b.png")
    loop.symlink_to(loop)
    assert inputs.unique(inputs.expand([str(tmp_path)])) == [loop]
    assert inputs.unique([nul, loop, nul]) == [nul, loop]
    for path in (loop, nul):
        with pytest.raises(images.ImageError, match="no such image file"):
            images.read(path)


def test_a_pattern_finds_endings_in_any_case(tmp_path):
    folder = pictures(tmp_path / "up", 1)
    (folder / "000.png").rename(folder / "A.PNG")
    pictures(folder, 1)
    write(folder / "b.JPG", tiny.pictures(1)[0])
    found = inputs.expand([f"{folder}/*.png"])
    assert [path.name for path in found] == ["000.png", "A.PNG"]
    assert [p.name for p in inputs.expand([f"{tmp_path}/**/*.Jpg"])] == ["b.JPG"]
    assert len(inputs.expand([f"{folder}/*"])) == 3


def test_a_folder_of_plain_photographs_says_nothing(tmp_path):
    folder = pictures(tmp_path / "a", 3)
    pictures(folder / "monday" / "late", 2, first=5)
    _, err = run("fit", folder, "--out", tmp_path / "m", *FAST)
    assert err == ""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m"
    known = images.learnt([images.facts(pictures(path.parent / "p", 1) / "000.png")])
    notes = {"learnt": images.to_notes(known)}
    fitted = dataclasses.replace(tiny.fitted(), calibration=np.arange(500.0, 519.0))
    io.save(path, fitted, false_positive_rate=0.05, notes=notes)
    return path


def evaluated(model, *arguments, folder):
    """Returns the record of an evaluation, and what was told."""
    _, err = run("evaluate", model, *arguments, "--output", folder, "--quiet")
    return json.loads((folder / "results.json").read_text())[0], err


def test_evaluating_needs_no_training_images(model, category, tmp_path):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    root = copied(category, tmp_path / "set")
    shutil.rmtree(root / "train")
    record, err = evaluated(model, root, folder=tmp_path / "out")
    for name in ("image_auroc", "pixel_auroc", "aupro", "num_test"):
        assert record[name] == whole[name] is not None
    assert "masks: 4 of 4 anomalous test images have one" in err
    assert record["notes"] == ["masks: 4 of 4 anomalous test images have one"]


def test_a_named_layout_needs_no_training_images_either(model, category, tmp_path):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    copied(category, tmp_path / "set" / "one")
    shutil.rmtree(tmp_path / "set" / "one" / "train")
    words = ("mvtec", "--data-root", tmp_path / "set", "--category", "one")
    record, _ = evaluated(model, *words, folder=tmp_path / "out")
    for name in ("image_auroc", "pixel_auroc", "num_test"):
        assert record[name] == whole[name]
    with pytest.raises(datasets.DatasetError, match="no category"):
        datasets.mvtec(tmp_path / "set", "one")


def test_pixel_figures_are_of_the_masks_that_exist(model, category, tmp_path):
    root = copied(category, tmp_path / "set")
    gone = root / "ground_truth" / "spot" / "000_mask.png"
    gone.unlink()
    partial, err = evaluated(model, root, folder=tmp_path / "a")
    assert "masks: 3 of 4 anomalous test images have one; pixel figures" in err
    assert "missing: " in err
    less = copied(root, tmp_path / "less")
    (less / "test" / "spot" / "000.png").unlink()
    whole, _ = evaluated(model, less, folder=tmp_path / "b")
    assert partial["pixel_auroc"] == whole["pixel_auroc"] is not None
    assert partial["aupro"] == whole["aupro"]
    assert partial["num_test"] == whole["num_test"] + 1
    error, *_ = attempt("evaluate", model, root, "--require-masks", "--quiet")
    assert "spot/000.png: its mask is missing" in str(error)
    shutil.rmtree(root / "ground_truth")
    none, err = evaluated(model, root, folder=tmp_path / "c")
    assert none["pixel_auroc"] is none["aupro"] is None
    assert none["image_auroc"] == partial["image_auroc"]
    assert "masks: 0 of 4 anomalous test images have one, so no pixel figures" in err


def test_masks_of_any_name_format_and_case_give_the_same_figures(
    model, category, tmp_path
):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    root = copied(category, tmp_path / "set")
    for i, path in enumerate(sorted(root.glob("ground_truth/*/*.png"))):
        name = path.name.replace("_mask.png", ("_mask.PNG", ".png", ".BMP")[i % 3])
        PIL.Image.open(path).save(path.with_name("new.bmp"))
        path.unlink()
        format_ = "BMP" if i % 3 == 2 else "PNG"
        PIL.Image.open(path.with_name("new.bmp")).save(path.with_name(name), format_)
        path.with_name("new.bmp").unlink()
    record, _ = evaluated(model, root, folder=tmp_path / "out")
    assert record["pixel_auroc"] == whole["pixel_auroc"]
    assert record["aupro"] == whole["aupro"]


def test_jpeg_masks_have_the_regions_that_were_painted(model, category, tmp_path):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    root = copied(category, tmp_path / "set")
    for path in root.glob("ground_truth/*/*.png"):
        PIL.Image.open(path).save(path.with_suffix(".jpg"), quality=75)
        path.unlink()
    record, _ = evaluated(model, root, folder=tmp_path / "out")
    assert record["aupro"] == pytest.approx(whole["aupro"], abs=0.02)


@pytest.mark.parametrize("good", ["ok", "Good"])
def test_kinds_of_other_names_are_understood(model, category, tmp_path, good):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    root = copied(category, tmp_path / "set")
    (root / "test" / "good").rename(root / "test" / good)
    record, err = evaluated(model, root, folder=tmp_path / "a")
    assert record["image_auroc"] == whole["image_auroc"]
    assert f"kinds: {good} (normal)" in " ".join(err.splitlines()) or good in err
    assert "--normal" in err
    (root / "test" / good).rename(root / "test" / "gut")
    record, err = evaluated(model, root, folder=tmp_path / "b")
    assert record["image_auroc"] is None
    assert "gut (anomalous)" in err
    record, _ = evaluated(model, root, "--normal", "gut", folder=tmp_path / "c")
    assert record["image_auroc"] == whole["image_auroc"]
    code, _, err = attempt("evaluate", model, "elpv", "--normal", "gut")
    assert code == 2
    assert "folder of your own" in err


def test_the_layout_of_other_libraries_is_understood(model, category, tmp_path):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    root = tmp_path / "set"
    shutil.copytree(category / "test" / "good", root / "normal")
    for kind in ("scratch", "spot"):
        for path in sorted((category / "test" / kind).iterdir()):
            mask = category / "ground_truth" / kind / f"{path.stem}_mask.png"
            for source, folder in ((path, "abnormal"), (mask, "truth")):
                (root / folder).mkdir(exist_ok=True)
                shutil.copy(source, root / folder / f"{kind}{path.name}")
    record, _ = evaluated(model, root, "--masks", root / "truth", "--normal", "normal",
                          folder=tmp_path / "a")  # fmt: skip
    shutil.move(root / "truth", root / "mask")
    again, _ = evaluated(model, root, folder=tmp_path / "b")
    for found in (record, again):
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            assert found[name] == pytest.approx(whole[name])


@pytest.mark.parametrize(("kept", "rate"), [("good", "false"), ("spot", "true")])
def test_only_good_or_only_bad_images_give_what_can_be_computed(
    model, category, tmp_path, kept, rate
):
    root = tmp_path / "set"
    shutil.copytree(category / "test" / kept, root / "test" / kept)
    record, err = evaluated(
        model, root, "--report", tmp_path / "page.html", folder=tmp_path / "out"
    )
    assert record["image_auroc"] is record["pixel_auroc"] is None
    missing = {"good": "anomalous", "spot": "normal"}[kept]
    assert f"image AUROC: no {missing} test images" in err
    rates = {n: record["decisions"][f"{n}_positive_rate"] for n in ("false", "true")}
    assert rates.pop(rate) is not None
    assert list(rates.values()) == [None]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_is_evaluated(model, category, tmp_path, mark):
    whole, _ = evaluated(model, category, folder=tmp_path / "whole")
    lines = [("image", "label", "mask")]
    for path in sorted((category / "test").glob("*/*.png")):
        kind = path.parent.name
        mask = category / "ground_truth" / kind / f"{path.stem}_mask.png"
        lines.append((path, "OK", "") if kind == "good" else (path, "NG", mask))
    table = tmp_path / "parts.csv"
    table.write_text("\n".join(mark.join(map(str, line)) for line in lines))
    for words in ((table,), ("csv", "--data-root", table)):
        record, err = evaluated(model, *words, folder=tmp_path / "out")
        for name in ("image_auroc", "pixel_auroc", "aupro"):
            assert record[name] == pytest.approx(whole[name])
        assert "no column split" in err


def test_a_category_of_a_folder_is_evaluated(model, category, tmp_path):
    copied(category, tmp_path / "set" / "one")
    copied(category, tmp_path / "set" / "two")
    record, _ = evaluated(
        model, tmp_path / "set", "--category", "two", folder=tmp_path / "out"
    )
    assert record["category"] == "two"
    error, *_ = attempt("evaluate", model, tmp_path / "set", "--quiet")
    assert "name one: one, two" in str(error)


def test_copies_between_training_and_test_are_named(model, category, tmp_path):
    root = copied(category, tmp_path / "set")
    shutil.copy(root / "train/good/002.png", root / "test/good/seen.png")
    shutil.copy(root / "test/good/001.png", root / "test/good/twice.png")
    _, err = evaluated(model, root, folder=tmp_path / "a")
    assert "1 test image is among those for training" in err
    assert "seen.png" in err
    assert "1 test image is a copy of others" in err
    assert "twice.png is" in err
    shutil.rmtree(root / "train")  # The model knows what it learnt from.
    shutil.copy(model.parent / "p" / "000.png", root / "test/good/learnt.png")
    _, err = evaluated(model, root, folder=tmp_path / "b")
    assert "1 test image is among those for training" in err
    assert "learnt.png" in err


def test_an_evaluation_reads_with_the_depth_of_the_model(category, tmp_path):
    odd = pictures(tmp_path / "odd", 4, change=deep(12))
    run("fit", odd, "--out", tmp_path / "m", *FAST)
    root = tmp_path / "set" / "test"
    pictures(root / "good", 2, change=deep(12), first=9)
    pictures(root / "spot", 2, change=deep(12), kind="spot", first=9)
    _, err = evaluated(tmp_path / "m", tmp_path / "set", folder=tmp_path / "a")
    assert "bit depth" not in err
    for path in root.glob("*/*.png"):
        write(path, images.read(path)[..., 0].astype(np.uint8))
    _, err = evaluated(tmp_path / "m", tmp_path / "set", folder=tmp_path / "b")
    assert err.count("is the bit depth") == 1


def test_a_mask_of_another_shape_is_refused(tmp_path):
    folder = pictures(tmp_path / "a", 3)
    mask = write(tmp_path / "mask.png", np.full((8, 3000), 255, np.uint8))
    error, *_ = attempt("fit", folder, "--out", tmp_path / "m", "--mask", mask, *FAST)
    assert "8 x 3000 pixels, the images are 40 x 40" in str(error)
    assert not (tmp_path / "m").exists()
