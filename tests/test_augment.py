"""Copies of images: which there are, and that a fit learns from them as from images."""

import jax
import numpy as np
import pytest
import tiny

from gladjax import detector
from gladjax.detector import augment

FEW = {"num_components": 6, "max_steps": 4, "max_samples": 0}


def literal(image, kind):
    """All copies, pixel by pixel."""
    h, w = image.shape[:2]
    where = {
        "as it is": lambda y, x: (y, x),
        "left to right": lambda y, x: (y, w - 1 - x),
        "half a turn": lambda y, x: (h - 1 - y, w - 1 - x),
        "upside down": lambda y, x: (h - 1 - y, x),
        "transposed": lambda y, x: (x, y),
        "a quarter turn": lambda y, x: (x, w - 1 - y),
        "back": lambda y, x: (h - 1 - x, y),
        "anti-transposed": lambda y, x: (h - 1 - x, w - 1 - y),
    }
    count = {"auto": 1, "": 1, "flip": 2, "dihedral": 8 if h == w else 4}[kind]
    found = []
    for of in list(where.values())[:count]:
        found.append([[image[of(y, x)] for x in range(w)] for y in range(h)])
    return np.array(found)


@pytest.mark.parametrize("kind", augment.KINDS)
@pytest.mark.parametrize("size", [(5, 5), (4, 6)])
def test_copies_are_those_of_the_definition(kind, size):
    image = np.arange(3 * size[0] * size[1], dtype=np.float32).reshape(*size, 3)
    found = augment.copies(image, kind)
    expected = literal(image, kind)
    assert len(found) == len(expected) == augment.number(kind, size)
    np.testing.assert_array_equal(found[0], image)
    assert {one.tobytes() for one in found} == {one.tobytes() for one in expected}
    assert len({one.tobytes() for one in found}) == len(found)


def equal(one, other):
    for found, expected in zip(
        *(jax.tree.leaves(m.layers) for m in (one, other)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["flip", "dihedral"])
def test_a_fit_learns_from_copies_as_from_images(kind):
    images = tiny.pictures(6, size=tiny.SIDE)
    every = [copy for image in images for copy in augment.copies(image, kind)]
    fits = [
        detector.fit(
            jax.random.key(0),
            tiny.network(),
            some,
            settings=detector.Settings(augment=own, **FEW),
        )
        for some, own in ((images, kind), (every, ""))
    ]
    equal(*fits)


def test_an_update_learns_from_copies_too():
    settings = detector.Settings(augment="flip", keep_statistics=True, **FEW)
    images = tiny.pictures(6)
    fitted = detector.fit(jax.random.key(0), tiny.network(), images, settings=settings)

    def counted(model):
        return float(np.sum(model.layers["fine"].kept.statistics.counts))

    assert counted(fitted) == 2 * 6 * 8 * 8
    updated = detector.update(fitted, tiny.pictures(3, first=6))
    assert counted(updated) == 2 * 9 * 8 * 8


def hooks(count, *, side=48):
    """Hooks anywhere, turned and mirrored anyhow."""
    images = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = 90 + rng.normal(0, 4, (side, side, 3))
        for row, column in rng.integers(0, side - 14, (4, 2)):
            hook = np.zeros((14, 14), bool)
            hook[:, 4:8] = hook[:4, 4:] = True
            hook = np.rot90(hook, rng.integers(4))[:: rng.choice([1, -1])]
            image[row : row + 14, column : column + 14][hook] += (90, -60, 30)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return images


def fitted(images, *, augment, progress=None, **more):
    settings = detector.Settings(
        **{"max_steps": 4, "max_samples": 0, "num_components": 12, **more},
        neighbourhood=1,
        augment=augment,
    )
    return detector.fit_info(
        jax.random.key(0),
        tiny.network(),
        images,
        settings=settings,
        folds=4,
        progress=progress,
    )


def test_copies_are_taken_where_they_make_the_images_left_out_likelier(monkeypatch):
    images, stages = hooks(9), []
    model, info = fitted(
        images, augment="auto", min_kept=1.0, progress=lambda *told: stages.append(told)
    )
    assert info.likelier == 1.0
    assert model.settings.augment == "dihedral"
    turned, known = fitted(images, augment="dihedral", min_kept=1.0)
    equal(model, turned)
    np.testing.assert_array_equal(info.left_out, known.left_out)
    assert (known.likelier, info.kept) == (None, known.kept)
    own = {stage for stage, _, _ in stages if not stage.startswith("copies: ")}
    assert {stage for stage, _, _ in stages} - own == {f"copies: {s}" for s in own}
    assert set(info.seconds) - set(known.seconds) == {"copies"}


@pytest.mark.parametrize(
    ("refused", "layers"),
    [
        # Each layer is asked under local and under global weights, and at the end once
        # more under those that hold.
        ({1, 2}, 1),
        ({1, 3, 4, 6}, 2),
        ({6}, 2),
    ],
)
def test_copies_are_not_taken_for_one_image_of_nine_in_one_layer(
    refused, layers, monkeypatch
):
    images, asked, learnt = hooks(9), [], []
    plain, known = fitted(images, augment="", min_kept=1.0)
    assert known.kept < 1
    likelier, learn = augment.likelier, detector.fitting.learn

    def fewer(before, after):
        asked.append(len(before))
        after[4] -= 1e6 * (len(asked) in refused)
        return likelier(before, after)

    def counted(*given):
        learnt.append(given)
        return learn(*given)

    monkeypatch.setattr(augment, "likelier", fewer)
    monkeypatch.setattr(detector.fitting, "learn", counted)
    model, info = fitted(images, augment="auto", min_kept=1.0)
    assert len(learnt) == len(model.layers) + layers
    assert info.likelier == 8 / 9
    assert model.settings.augment == "auto"
    equal(model, plain)
    np.testing.assert_array_equal(info.left_out, known.left_out)


def test_copies_are_not_tried_where_local_weights_hold_or_nothing_tells(monkeypatch):
    images = hooks(9)
    _, known = fitted(images, augment="", min_kept=1.0)
    monkeypatch.setattr(augment, "likelier", None)
    for more in ({"min_kept": max(known.kept, 0.0)}, {"local": False}):
        model, info = fitted(images, augment="auto", **more)
        assert info.likelier is None
        assert model.settings.augment == "auto"


def test_images_that_are_never_left_out_do_not_count_and_those_not_yet_known_do():
    before = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    after = np.array([2.0, 2.0, 5.0, np.nan, 5.5])
    assert augment.likelier(before, after) == 3 / 4
    assert augment.likelier(after, before) == 1 / 4


@pytest.mark.parametrize("more", [{"augment": "mirror"}, {"motion": "translation"}])
def test_what_cannot_be_is_refused(more):
    settings = detector.Settings(**{"augment": "flip", **FEW, **more})
    with pytest.raises(ValueError, match="augment"):
        detector.fit(
            jax.random.key(0), tiny.network(), tiny.pictures(4), settings=settings
        )
