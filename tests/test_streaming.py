"""Scores of many images: order, bad images, read ahead no further than asked."""

from collections.abc import Sequence

import numpy as np
import pytest
import tiny

from gladjax import detector, images, streaming


class Counted(Sequence):
    """A sequence that knows how far it was read."""

    def __init__(self, items):
        self.items, self.read = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read = max(self.read, index + 1)
        item = self.items[index]
        if item is None:
            raise images.ImageError(f"image {index} is bad")
        return item


def test_results_equal_single_scores_in_order():
    fitted = tiny.fitted()
    pictures = tiny.pictures(3, first=50) + tiny.pictures(3, kind="spot")
    found = list(streaming.score_many(fitted, pictures))
    assert [f.score for f in found] == [
        detector.score(fitted, picture).score for picture in pictures
    ]
    assert found[0].heat_map.shape == pictures[0].shape[:2]


def test_a_bad_image_is_a_result_in_its_place():
    good = tiny.pictures(2)
    found = list(streaming.score_many(tiny.fitted(), Counted([good[0], None, good[1]])))
    assert isinstance(found[1], images.ImageError)
    assert found[0].score != found[2].score
    assert found[2].score == detector.score(tiny.fitted(), good[1]).score


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_than_the_depth_allows(depth):
    picture = tiny.pictures(1)[0]
    sequence = Counted([picture] * 20)
    results = streaming.score_many(tiny.fitted(), sequence, depth=depth)
    for done in range(1, 6):
        next(results)
        assert sequence.read <= done + depth
    results.close()


def test_heat_maps_of_a_size_asked_for():
    found = list(streaming.score_many(tiny.fitted(), tiny.pictures(1), shape=(9, 11)))
    assert found[0].heat_map.shape == (9, 11)
    assert np.isfinite(found[0].heat_map).all()


def test_refuses_a_depth_below_one():
    with pytest.raises(ValueError, match="depth"):
        next(streaming.score_many(tiny.fitted(), tiny.pictures(1), depth=0))
