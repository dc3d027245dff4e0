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
    count = {"": 1, "flip": 2, "dihedral": 8 if h == w else 4}[kind]
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
    for found, expected in zip(*(jax.tree.leaves(f.layers) for f in fits), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_update_learns_from_copies_too():
    settings = detector.Settings(augment="flip", keep_statistics=True, **FEW)
    images = tiny.pictures(6)
    fitted = detector.fit(jax.random.key(0), tiny.network(), images, settings=settings)

    def counted(model):
        return float(np.sum(model.layers["fine"].kept.statistics.counts))

    assert counted(fitted) == 2 * 6 * 8 * 8
    updated = detector.update(fitted, tiny.pictures(3, first=6))
    assert counted(updated) == 2 * 9 * 8 * 8


@pytest.mark.parametrize("more", [{"augment": "mirror"}, {"motion": "translation"}])
def test_what_cannot_be_is_refused(more):
    settings = detector.Settings(**{"augment": "flip", **FEW, **more})
    with pytest.raises(ValueError, match="augment"):
        detector.fit(
            jax.random.key(0), tiny.network(), tiny.pictures(4), settings=settings
        )
