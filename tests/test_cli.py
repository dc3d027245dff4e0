"""The command line, on a tiny network and tiny images."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import warnings

import click
import jax
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from gladjax import backbone, cli, compiled, datasets, detector, images, io
from gladjax.cli import calibration, inputs, options
from gladjax.detector import augment, fitting

FEW = ["--num-components", "4", "--quiet"]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """Every network is the tiny one."""
    load = backbone.load

    def named(name, *, checkpoint=None, image_size=None, **chosen):
        if name in ("efficientnet_lite0", "tiny") and checkpoint is None:
            return tiny.network()
        return load(name, checkpoint=checkpoint, image_size=image_size, **chosen)

    monkeypatch.setattr(backbone, "load", named)


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    datasets.write_synthetic(root, num_train=12, num_good=3, num_bad=2, size=40)
    return root / "texture"


@pytest.fixture(scope="module")
def model(category, tmp_path_factory):
    """A model with 19 calibration scores, enough for 5 % and not for 1 %."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    scores = np.array([500.0 + i for i in range(19)])
    fitted = dataclasses.replace(tiny.fitted(), calibration=scores)
    io.save(path, fitted, false_positive_rate=0.05, notes={"seed": 0})
    return path


def run(*arguments, stdin=None):
    """Runs the command in this process; code, standard output, standard error."""
    runner = CliRunner()
    with _quiet():
        result = runner.invoke(cli.cli, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        return result.exception, result.stdout, result.stderr
    return result.exit_code, result.stdout, result.stderr


class _quiet:
    """Lets warnings pass that the command would print."""

    def __enter__(self):
        self._context = warnings.catch_warnings()
        self._context.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error):
        self._context.__exit__(*error)


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_fit_then_score_then_evaluate(category, tmp_path):
    path = tmp_path / "model.safetensors"
    code, out, err = run("fit", category / "train", "--out", path, *FEW)
    assert code == 0, err
    assert "threshold at a false-positive rate of 0.05: none" in out
    description = io.describe(path)
    assert description.num_calibration == 12
    assert description.notes["calibration"] == "left-out"
    assert description.notes["num_images"] == 12
    code, out, err = run(
        "score", path, category / "test", "--jsonl", "--heatmaps", tmp_path / "maps"
    )
    assert code == 0, err
    found = objects(out)
    assert len(found) == 3 + 2 * 2
    expected = {"image", "score", "p_value", "threshold", "is_anomalous"}
    assert all(set(f) == expected | {"alignment", "heat_map"} for f in found)
    assert all(f["is_anomalous"] is None for f in found)
    assert all(0 < f["p_value"] <= 1 for f in found)
    for f in found:
        assert images.read(f["heat_map"]).shape == (40 + 24, 84, 3)
    code, out, err = run("evaluate", path, category, "--output", tmp_path / "out")
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "results.json").read_text())[0]
    needed = [
        "category",
        "backbone",
        "method",
        "seed",
        "image_auroc",
        "pixel_auroc",
        "aupro",
    ]
    needed += ["num_components", "active_per_position", "model_bytes", "fit_seconds"]
    assert set(needed) <= set(record)
    assert f"image auroc: {record['image_auroc']:.4f}" in out
    scores = {f["image"]: f["score"] for f in found}
    good = [s for name, s in scores.items() if "/good/" in name]
    bad = [s for name, s in scores.items() if "/good/" not in name]
    wins = np.mean([[b > g for g in good] for b in bad])
    assert record["image_auroc"] == pytest.approx(wins)


def test_a_split_leaves_enough_images_for_the_rate(category, tmp_path):
    path = tmp_path / "m"
    code, out, err = run(
        *("fit", category / "train", "--out", path, *FEW),
        *("--calibration", "split", "--false-positive-rate", "0.4"),
    )
    assert code == 0, err
    description = io.describe(path)
    assert description.num_calibration == 2
    assert description.threshold is not None
    assert f"0.4: {description.threshold:.4f}" in out
    code, out, _ = run("score", path, category / "test" / "good", "--jsonl")
    for f in objects(out):
        assert f["threshold"] == description.threshold
        assert f["is_anomalous"] == (f["score"] > f["threshold"])
        assert f["is_anomalous"] == (f["p_value"] <= 0.4)


def test_too_few_images_for_the_rate_warn_and_succeed(category, tmp_path):
    """1 % needs 99 images: the file is written, the decision is left open."""
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, "fit", str(category / "train"), "--out",
         str(tmp_path / "m"), "--false-positive-rate", "0.01", *FEW[:-1]],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "warning: a false-positive rate of 0.01 needs 99" in process.stderr
    assert io.describe(tmp_path / "m").threshold is None
    assert "\n12 images: " in f"\n{process.stderr}"  # How long it will take,
    folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    (known,) = folder.glob(f"fit-*{compiled.LIST}")  # and how long it took.
    assert any("12" in fit for fit in compiled.noted(known)[1].values())


DRIVER = """
import tiny
from gladjax import backbone, cli
backbone.load = lambda *a, **k: tiny.network()
cli.run()
"""


def environment():
    return {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}


def test_decisions_follow_the_rate(model, category):
    image = category / "test" / "good" / "000.png"
    code, out, _ = run("score", model, image, "--jsonl")
    assert code == 0
    found = objects(out)[0]
    assert found["threshold"] == 518.0
    assert found["is_anomalous"] == (found["score"] > 518.0)
    code, out, _ = run("score", model, image, "--jsonl", "--false-positive-rate", 0.01)
    assert objects(out)[0]["is_anomalous"] is None
    code, out, _ = run("score", model, image)
    assert str(image) in out
    assert ("normal" in out) != ("ANOMALOUS" in out)


def test_a_bad_image_is_reported_and_the_rest_goes_on(model, category, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    good = category / "test" / "good" / "000.png"
    missing = tmp_path / "missing.png"
    code, out, err = run("score", model, good, bad, missing, good, "--jsonl")
    found = objects(out)
    assert code == 3
    assert "2 of 4 images were bad" in err
    names = [str(p) for p in (good, bad, missing, good)]
    assert [f["image"] for f in found] == names
    assert ["error" in f for f in found] == [False, True, True, False]
    assert str(bad) in found[1]["error"]
    assert found[0]["score"] == found[3]["score"]
    code, out, _ = run("score", model, good, bad, good, "--jsonl", "--strict")
    assert isinstance(code, images.ImageError)
    assert len(objects(out)) == 1
    code, out, err = run("score", model, good, bad)
    assert code == 3
    assert f"bad image: {bad}" in err
    assert len(out.splitlines()) == 1


def test_fit_leaves_bad_images_out_or_stops(category, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    path = tmp_path / "m"
    chosen = ["--calibration", "none", *FEW]
    code, _, err = run("fit", category / "train", bad, "--out", path, *chosen)
    assert code == 3
    assert f"left out: {bad}" in err
    assert io.describe(path).notes["num_bad"] == 1
    path.unlink()
    code, *_ = run("fit", category / "train", bad, "--out", path, "--strict", *chosen)
    assert isinstance(code, images.ImageError)
    code, *_ = run("fit", bad, "--out", path, *chosen)
    assert isinstance(code, images.ImageError)
    assert not path.exists()


def test_the_same_image_is_learnt_once(category, tmp_path):
    train = category / "train"
    first = train / "good" / "000.png"
    code, *_ = run("fit", first, train, first, "--out", tmp_path / "m",
                   "--calibration", "none", *FEW)  # fmt: skip
    assert code == 0
    assert io.describe(tmp_path / "m").notes["num_images"] == 12


def test_defects_among_the_good_are_named(tmp_path, monkeypatch):
    """And that positions share their weights, where own ones do not hold."""
    monkeypatch.setattr(detector.fitting, "kept", lambda _: 0.25)
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(14):
        image = np.clip(rng.normal(128, 10, (40, 40, 3)), 0, 255)
        if i == 5:
            image[10:30, 10:30] = 255
        images.write_png(folder / f"{i:02}.png", image.astype(np.uint8))
    code, out, err = run("fit", folder, "--out", tmp_path / "m.safetensors", *FEW)
    assert code == 0, err
    assert "1 of 14 images are unlike the others" in err
    assert "05.png (score" in err
    assert "every position has the same weights: 25% of what" in out
    assert not io.load(tmp_path / "m.safetensors").settings.local
    (folder / "05.png").unlink()
    more = ["--local-weights", "yes", *FEW]
    code, out, err = run("fit", folder, "--out", tmp_path / "n.safetensors", *more)
    assert code == 0, err
    assert "unlike" not in err
    assert "every position" not in out
    assert io.load(tmp_path / "n.safetensors").settings.local


def test_the_least_likely_images_are_named_where_none_is_unlike_the_others(capsys):
    paths = [pathlib.Path(f"good/{i:02}.png") for i in range(20)]
    scores = np.arange(20.0)
    scores[19] = np.nan
    calibration._tell_unlike(paths, scores, 18.0)
    said = capsys.readouterr().err
    assert said.endswith(": 18.png, 17.png, 16.png, 15.png, 14.png\n")
    calibration._tell_unlike(paths[:19], scores[:19], 18.0)
    assert not capsys.readouterr().err  # Of few images it says nothing.


@pytest.mark.parametrize(
    ("limit", "words"), [(90.0, True), (17.0, False), (None, False)]
)
def test_a_threshold_that_is_the_score_of_a_defect_is_told(capsys, limit, words):
    paths = [pathlib.Path(f"good/{i:02}.png") for i in range(20)]
    scores = np.append(np.linspace(10, 17, 19), 90.0)
    calibration._tell_unlike(paths, scores, limit)
    said = capsys.readouterr().err
    assert "1 of 20 images are unlike" in said
    assert ("the threshold is the score of such an image" in said) == words


def test_an_image_that_shows_nothing_is_left_out_of_the_threshold(monkeypatch):
    """Such as one that alignment moved out of the mask."""
    scores = np.append(np.arange(20.0), np.nan)

    class Work:
        settings = detector.Settings()
        left_out = scores

        def __call__(self, paths, progress, *, folds):
            return tiny.fitted()

    paths = [pathlib.Path(f"{i}.png") for i in range(21)]
    with pytest.warns(UserWarning, match="shows nothing inside the mask"):
        fitted, how = calibration.calibrated(
            jax.random.key(0), paths, Work(), "left-out", 0.05, options.Progress()
        )
    np.testing.assert_array_equal(fitted.calibration, np.arange(20.0))
    assert how == "left-out"


def test_equal_seeds_give_equal_models(category, tmp_path):
    def bytes_of(name, seed):
        code, _, err = run("fit", category / "train", "--out", tmp_path / name,
                           "--seed", seed, "--calibration", "split", *FEW)  # fmt: skip
        assert code == 0, err
        arrays, _ = io.container.read(tmp_path / name)
        return {key: value.tobytes() for key, value in arrays.items()}

    assert bytes_of("a", 0) == bytes_of("b", 0)
    assert bytes_of("a", 0) != bytes_of("c", 1)


@pytest.mark.parametrize("motion", ["auto", "translation"])
def test_alignment_and_mask_reach_the_model(category, tmp_path, motion):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    images.write_png(tmp_path / "mask.png", mask)
    code, _, err = run(
        *("fit", category / "train", "--out", tmp_path / "m", "--align", motion),
        *("--mask", tmp_path / "mask.png", "--calibration", "none", *FEW),
    )
    assert code == 0, err
    fitted = io.load(tmp_path / "m", backbone=tiny.network())
    assert fitted.mask.sum() == 16 * 16
    if motion == "auto":  # The phases of a texture differ: nothing to align with.
        assert "alignment:" in err
        assert fitted.reference is None
    else:
        assert fitted.settings.motion == "translation"
        code, out, _ = run("score", tmp_path / "m", category / "test/good", "--jsonl")
        assert {"success", "residual"} <= set(objects(out)[0]["alignment"])


def test_copies_are_learnt_from_where_they_are_asked_for(category, tmp_path):
    more = ["--augment", "flip", "--out", tmp_path / "m", *FEW]
    code, out, err = run("fit", category / "train", *more)
    assert code == 0, err
    assert "learnt from 12 images and their copies (flip)" in out
    assert io.load(tmp_path / "m", backbone=tiny.network()).settings.augment == "flip"
    assert io.describe(tmp_path / "m").num_calibration == 12
    code, _, err = run("fit", category / "train", "--align", "translation", *more)
    assert code == 2
    assert "--augment" in err


@pytest.mark.parametrize("share", [0.95, 0.85])
def test_copies_are_tried_where_places_tell_too_little(
    category, tmp_path, monkeypatch, share
):
    monkeypatch.setattr(fitting, "kept", lambda _: 0.2)
    monkeypatch.setattr(augment, "likelier", lambda *_: share)
    code, out, err = run("fit", category / "train", "--out", tmp_path / "m", *FEW[:-1])
    assert code == 0, err
    assert "copies are tried: 12 images" in err
    taken = share > 0.9
    assert ("and their copies (dihedral)" in out) == taken
    assert f"were {'' if taken else 'not '}taken: {share:.0%} of the images" in out
    found = io.describe(tmp_path / "m")
    assert found.settings["augment"] == ("dihedral" if taken else "auto")
    assert found.notes["likelier"] == share
    assert found.num_calibration == 12


@pytest.mark.parametrize("end", ["quick", "paper"])
def test_the_two_ends_are_named(category, tmp_path, end):
    more = ["--calibration", "none", *FEW]
    code, _, err = run(
        "fit", category / "train", "--out", tmp_path / "m", f"--{end}", *more
    )
    assert code == 0, err
    found = io.load(tmp_path / "m", backbone=tiny.network()).settings
    known = getattr(detector.Settings, end)(num_components=4)
    assert found == known
    assert known.augment == ""


def test_the_whole_image_counts_unless_a_margin_is_asked_for(category, tmp_path):
    def shares(*more):
        code, out, err = run("fit", category / "train", "--out", tmp_path / "m",
                             "--calibration", "none", *more, *FEW)  # fmt: skip
        assert code == 0, err
        fitted = io.load(tmp_path / "m", backbone=tiny.network())
        return fitted.mask.mean(), "not looked at" in out, fitted.settings.margin

    assert shares() == (1, False, 0)
    assert shares("--margin", "0.125") == (0.75**2, True, 0.125)


def test_a_mask_and_a_margin_are_two_answers(category, tmp_path):
    code, _, err = run("fit", category / "train", "--out", tmp_path / "m", "--margin",
                       "0.1", "--mask", category / "train/good/000.png")  # fmt: skip
    assert code == 2
    assert "choose one" in err


def test_a_black_mask_is_refused(category, tmp_path):
    images.write_png(tmp_path / "mask.png", np.zeros((9, 9), np.uint8))
    error, *_ = run("fit", category / "train", "--out", tmp_path / "m",
                    "--mask", tmp_path / "mask.png", *FEW)  # fmt: skip
    assert "mask.png: the mask is empty" in str(error)


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_lists_on_standard_input(model, category, separator):
    paths = sorted((category / "test" / "good").iterdir())
    text = separator.join(map(str, paths)) + separator
    code, out, _ = run("score", model, "-", "--jsonl", stdin=text)
    assert code == 0
    assert [f["image"] for f in objects(out)] == [str(p) for p in paths]


def test_folders_patterns_and_hidden_files(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "c/d.tif", ".git/e.png", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = inputs.expand([str(tmp_path)])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == [
        "a.JPG",
        "b.png",
        "c/d.tif",
    ]
    assert inputs.expand([f"{tmp_path}/*.png"]) == [tmp_path / "b.png"]
    assert inputs.expand([f"{tmp_path}/**/*.tif"]) == [tmp_path / "c" / "d.tif"]
    assert inputs.expand(["none.png"])[0].name == "none.png"
    odd = tmp_path / "odd[1].png"
    odd.write_bytes(b"")
    assert inputs.expand([str(odd)]) == [odd]
    (tmp_path / "empty").mkdir()
    for nothing in (str(tmp_path / "empty"), f"{tmp_path}/*.bmp"):
        with pytest.raises(click.UsageError, match="no images"):
            inputs.expand([nothing])


def test_bad_usage_and_bad_models(category, tmp_path):
    assert run("score", tmp_path / "none", "x.png")[0] == 2
    assert run("fit", "--out", tmp_path / "m")[0] == 2
    assert (
        run("fit", category, "--out", tmp_path / "m", "--false-positive-rate", 1)[0]
        == 2
    )
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    assert isinstance(run("score", junk, "x.png")[0], io.ModelError)
    assert run("evaluate", junk, "elpv", "--heatmaps")[0] == 2
    assert run("nonsense")[0] == 2


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (ValueError("the file x: copy it again"), 1, "error: the file x"),
        (OSError("disk full"), 1, "error: disk full"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("odd"), 2, "odd"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_become_messages_and_codes(monkeypatch, capsys, raised, code, words):
    def fails(*args, **kwargs):
        raise raised

    monkeypatch.setattr(cli.interruption, "install", lambda: None)
    monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
    monkeypatch.setattr(cli.cli, "invoke", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "x", "--out", "y"])
    assert ended.value.code == code
    if words:
        captured = capsys.readouterr().err
        assert words in captured
        assert "Traceback" not in captured


@pytest.mark.parametrize(
    ("behind", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)]
)
def test_an_interruption_inside_of_a_library_is_one(monkeypatch, behind, code):
    """Compiled code that a signal arrives in raises a `SystemError` from it."""

    def fails(*args, **kwargs):
        raise SystemError("returned a result with an exception set") from behind

    monkeypatch.setattr(cli.interruption, "install", lambda: None)
    monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
    monkeypatch.setattr(cli.cli, "invoke", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "x", "--out", "y"])
    assert ended.value.code == code


@pytest.mark.parametrize(
    "command", ["", "fit", "score", "evaluate", "report", "weights", "demo"]
)
def test_help_teaches(command):
    code, out, _ = run(*([command] if command else []), "--help")
    assert code == 0
    assert "Usage:" in out
    if command in ("", "fit", "score", "evaluate", "report"):
        assert f"gladjax {command}".strip() in out.split("Examples:")[1]


def test_weights_are_listed_and_converted(tmp_path):
    code, out, _ = run("weights", "list")
    assert code == 0
    assert len(out.splitlines()) == 1 + len(backbone.catalogue())
    assert "CC BY-NC-SA" in out
    source = backbone.locate("efficientnet_lite0")
    target = tmp_path / "lite.safetensors"
    code, out, err = run(
        "weights", "convert", source, "--name", "efficientnet_lite0", "--out", target
    )
    assert code == 0, err
    assert out.strip() == str(target)
    assert set(backbone.read_checkpoint(target)) <= set(
        backbone.read_checkpoint(source)
    )
    code, *_ = run("weights", "convert", target, "--name", "efficientnet_lite0")
    assert code == 2  # It would overwrite its own source.


def test_fetching_shows_the_licence(tmp_path):
    error, _, err = run("weights", "fetch", "resnet18", "--directory", tmp_path,
                        "--url", "file:///nowhere", "--quiet")  # fmt: skip
    assert "CC BY-NC-SA" in err
    assert isinstance(error, ValueError)
    assert not os.listdir(tmp_path)


def test_reports_are_written(model, category, tmp_path):
    code, _, err = run("report", model, "--out", tmp_path / "fit.html")
    assert code == 0, err
    code, _, err = run("report", model, category, "--out", tmp_path / "eval.html")
    assert code == 0, err
    assert "image auroc" in (tmp_path / "eval.html").read_text()
    assert "ROC" not in (tmp_path / "fit.html").read_text()


@pytest.mark.parametrize("how", ["left-out", "split"])
def test_the_reference_never_calibrates(how):
    """It is learnt from in every fit."""
    paths = [pathlib.Path(name) for name in "abcdef"]
    progress = options.Progress(quiet=True)
    seen = []

    class Work:
        class settings:
            motion = "euclidean"

        left_out = np.array([np.nan, 1, 2, 3, 4, 5])

        def __call__(self, paths, progress, *, folds=0):
            seen.append((tuple(paths), folds))
            if how == "split":
                raise KeyboardInterrupt
            return tiny.fitted()

    if how == "split":
        with pytest.raises(KeyboardInterrupt):
            calibration.calibrated(jax.random.key(0), paths, Work(), how, 0.3, progress)
        assert seen[0][0][0] == paths[0]
        assert len(seen[0][0]) == 1 + 4
    else:
        model, _ = calibration.calibrated(
            jax.random.key(0), paths, Work(), how, 0.3, progress
        )
        assert seen == [(tuple(paths), 5)]
        assert model.calibration.tolist() == [1, 2, 3, 4, 5]
