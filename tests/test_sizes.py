"""Image sizes of any shape: chosen, kept, offered, warned of; what maps point at."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from gladjax import backbone, cli, datasets, detector, features, images, io
from gladjax.cli import reading, sizing

SIZE = 36, 181  # Of no stride, and no square.
LONG = 30, 150  # Height and width of the images.


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """Every network is the tiny one, at the size that is asked for."""

    def load(name, *, checkpoint=None, image_size=None, sha256=""):
        return network(image_size or (tiny.SIDE, tiny.SIDE))

    monkeypatch.setattr(backbone, "load", load)


def network(size):
    return dataclasses.replace(tiny.network(), image_size=tuple(size))


def parts(count, *, first=0, size=LONG):
    """Long images of a texture."""
    whole = [
        datasets.draw("texture", number=first + i, size=max(size))[0]
        for i in range(count)
    ]
    return [image[: size[0], : size[1]] for image in whole]


def marked(image, row, column, side):
    """Pastes a square with a pattern of its own."""
    image = image.copy()
    board = np.indices((side, side)).sum(axis=0) // 4 % 2
    image[row : row + side, column : column + side] = 255 * board[..., None]
    return image


def invoke(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(cli.cli, [*map(str, arguments), "--quiet"])


def run(*arguments):
    """Runs the command in this process; output and complaints, if it went well."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def attempt(*arguments):
    """Runs the command in this process; its error and complaints."""
    result = invoke(*arguments)
    return result.exception, result.stderr


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    """A data set of long parts, one of them with a defect at its right end."""
    root = tmp_path_factory.mktemp("long")
    for i, image in enumerate(parts(8)):
        images.write_png(root / f"train/good/{i}.png", image)
    for i, image in enumerate(parts(2, first=8)):
        images.write_png(root / f"test/good/{i}.png", image)
    bad = marked(parts(1, first=10)[0], 10, 110, 12)
    images.write_png(root / "test/spot/0.png", bad)
    mask = np.zeros(LONG, np.uint8)
    mask[10:22, 110:122] = 255
    images.write_png(root / "ground_truth/spot/0_mask.png", mask)
    images.write_png(root / "whole.png", np.full(LONG, 255, np.uint8))
    return root


@pytest.mark.slow
def test_a_size_goes_from_the_fit_to_the_last_page(category, tmp_path):
    """It is kept in the file: no later command is told of it."""
    model = tmp_path / "m"
    _, err = run(
        *("fit", category / "train", "--image-size", *SIZE, "--align", "translation"),
        *("--num-components", 4, "--mask", category / "whole.png"),
        *("--keep-statistics", "--report", tmp_path / "m.html", "--out", model),
    )
    assert "squashed" not in err
    description = io.describe(model)
    assert description.backbone["image_size"] == list(SIZE)
    assert description.num_calibration == 7
    fitted = io.load(model)
    assert fitted.mask.shape == SIZE
    assert [one.local_weights.shape for one in fitted.layers.values()] == [
        grid[:2] for grid in features.shapes(fitted.backbone).values()
    ]
    assert fitted.backbone.layers[:-1] == network(SIZE).layers
    out, err = run("score", model, category / "test", "--jsonl")
    scores = [json.loads(line)["score"] for line in out.splitlines()]
    assert max(scores[:2]) < scores[2]
    assert "warning" not in err
    heat = detector.score(fitted, images.read(category / "test/spot/0.png")).heat_map
    assert heat.shape == LONG
    row, column = np.unravel_index(heat.argmax(), LONG)
    assert 6 <= row < 26
    assert 106 <= column < 126
    run("evaluate", model, category, "--output", tmp_path / "out")
    record = json.loads((tmp_path / "out/results.json").read_text())[0]
    assert record["image_auroc"] == 1
    assert record["pixel_auroc"] > 0.9
    run("update", model, category / "test/good/1.png", "--out", tmp_path / "more")
    assert io.load(tmp_path / "more").backbone.image_size == SIZE
    assert "36 x 181" in (tmp_path / "m.html").read_text()


def test_a_size_that_keeps_the_shape_is_offered_and_not_taken(
    category, tmp_path, monkeypatch
):
    asked = []
    load = backbone.load

    def noted(name, **chosen):
        asked.append(chosen["image_size"])
        return load(name, **chosen)

    monkeypatch.setattr(backbone, "load", noted)
    images.write_png(tmp_path / "black.png", np.zeros(LONG, np.uint8))
    black = ["--mask", tmp_path / "black.png"]
    error, said = attempt("fit", category / "train", "--out", tmp_path / "m", *black)
    assert "30 x 150 pixels are squashed to 32 x 32" in said
    assert "--image-size 32 160 keeps their shape" in said
    assert "the mask is empty" in str(error)  # So far it came, with the default size.
    assert asked == [None]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((300, 300), ""),
        ((480, 640), ""),
        ((640, 480), ""),
        ((600, 400), "--image-size 552 368"),
    ],
)
def test_nothing_is_offered_to_images_that_are_about_square(capsys, shape, words):
    net = dataclasses.replace(tiny.network(), image_size=(448, 448))
    sizing.tell(net, [shape] * 3)
    said = capsys.readouterr().err
    assert words in said
    assert bool(words) == bool(said)


def test_another_aspect_ratio_than_those_learnt_from_is_told_once(tmp_path, capsys):
    """By more than 5 %; files of before say nothing of it."""
    shapes = {"a": (30, 150), "b": (33, 150), "c": (34, 150), "d": (60, 150)}
    paths = {name: tmp_path / f"{name}.png" for name in shapes}
    for name, shape in shapes.items():
        images.write_png(paths[name], parts(1, size=shape)[0])
    known = images.learnt([images.facts(paths[name]) for name in "ab"])
    notes = json.loads(json.dumps(images.to_notes(known)))
    assert images.from_notes(notes) == known

    def said(names, notes=notes):
        read = reading.Reader(images.from_notes(notes))
        for name in names:
            read(paths[name])
            read.tell(paths[name])
        read.end()
        return capsys.readouterr().err

    assert said("abc") == ""
    err = said("dd")
    assert "d.png: it is 60 x 150 pixels, a height of 0.4 of its width" in err
    assert "from 0.2 to 0.22; it is stretched" in err
    assert "2 images have an aspect ratio unlike those learnt from" in err
    for odd in (None, [0.2], [0, 1], [float("nan"), 1], "ab"):
        assert said("d", {**notes, "ratios": odd}) == ""
    more = images.learnt([images.facts(paths["d"])])
    assert images.joined(known, more).ratios == (0.2, 0.4)


def test_networks_take_any_size_or_say_why_not():
    key = jax.random.key(0)
    for name in ("efficientnet_lite0", "resnet18", "resnet18_plain"):
        net = backbone.random(key, name, image_size=(45, 83))
        grids = [grid[:2] for grid in features.shapes(net).values()]
        coarse = [(-(-45 // s), -(-83 // s)) for s in (8, 16)]
        assert grids[1:] == coarse
    net = backbone.random(key, "dinov2_vits14", image_size=(70, 140))
    assert features.shapes(net)["layer3"][:2] == (5, 10)
    with pytest.raises(
        ValueError, match="100 x 140 image does not divide into patches"
    ):
        backbone.random(key, "dinov2_vits14", image_size=(100, 140))


@pytest.fixture(scope="module")
def wide():
    """A detector for images of 384 x 768, where a cell is 4 pixels."""
    size = 384, 768
    made = parts(3, size=size)
    few = detector.Settings(
        num_components=3, max_steps=2, max_samples=4096, local=False
    )
    net = network(size)
    return detector.fit(
        jax.random.key(0), net, made, settings=few, mask=np.ones(size, bool)
    )


def test_images_of_different_sizes_make_one_batch():
    """Each is brought to the size of the model, and its heat map back to its own."""
    fitted, sizes = tiny.fitted(), ((60, 90), (91, 41), (32, 32))
    some = [parts(1, first=9, size=size)[0] for size in sizes]
    found = detector.score_batch(fitted, some)
    assert [one.heat_map.shape for one in found] == [one.shape[:2] for one in some]
    alone = [detector.score(fitted, one).score for one in some]
    np.testing.assert_allclose([one.score for one in found], alone, rtol=1e-4)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("column", [0, 1])
def test_heat_maps_point_at_squares_in_every_corner(wide, row, column):
    """Within a cell, which is 8 pixels of 1536."""
    high, wide_, side = 768, 1536, 48
    place = row * (high - side), column * (wide_ - side)
    image = parts(1, first=20, size=(384, 768))[0].repeat(2, axis=0).repeat(2, axis=1)
    heat = detector.score(wide, marked(image, *place, side)).heat_map
    assert heat.shape == (high, wide_)
    hot = heat > (heat.max() + np.median(heat)) / 2
    middle = np.argwhere(hot).mean(axis=0)
    expected = np.array(place) + (side - 1) / 2
    assert np.abs(middle - expected).max() <= 8
    assert hot[tuple(np.rint(expected).astype(int))]
