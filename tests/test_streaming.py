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


@pytest.fixture
def together(monkeypatch):
    """How many images went through a program, call by call, in no order."""
    numbers = []
    score_batch = detector.score_batch

    def counted(fitted, group, **options):
        numbers.append(len(group))
        return score_batch(fitted, group, **options)

    monkeypatch.setattr(detector, "score_batch", counted)
    return numbers


@pytest.fixture
def many(tmp_path):
    """Files of many pictures, few of them unlike, one of them bad."""
    drawn = tiny.pictures(3, first=50) + tiny.pictures(2, kind="spot")
    for i in range(streaming.MANY + 2):
        images.write_png(tmp_path / f"{i:03}.png", drawn[i % 5])
    (tmp_path / "013.png").write_bytes(b"no image")
    return sorted(tmp_path.iterdir())


def test_many_go_in_groups_and_score_as_alone(many, together):
    """After the first, alone, seven of eight; one has a bad image, one falls short."""
    alone = [detector.score(tiny.fitted(), images.read(p)).score for p in many[:5]]
    together.clear()
    found = list(streaming.score_files(tiny.fitted(), many))
    assert [one.path for one in found] == many
    for i, one in enumerate(found):
        if i == 13:
            assert isinstance(one.result, images.ImageError)
            assert "013.png" in str(one.result)
            assert one.image is None
        else:
            assert one.result.score == pytest.approx(alone[i % 5], rel=1e-6)
            np.testing.assert_array_equal(one.image, images.read(many[i]))
    singles = 1 + 7 + (len(many) - 1) % 8
    assert sorted(together) == [1] * singles + [8] * 7
    again = streaming.score_many(tiny.fitted(), images.Lazy(many))
    for one, other in zip(found, again, strict=True):
        assert getattr(one.result, "score", None) == getattr(other, "score", None)


def test_large_images_are_scored_alone(many, together, monkeypatch):
    height, width = images.shape(many[0])
    monkeypatch.setattr(streaming, "PIXELS", 7 * height * width)
    list(streaming.score_files(tiny.fitted(), many))
    assert set(together) == {1}


def test_what_comes_through_a_pipe_is_scored_at_once(many, together):
    list(streaming.score_files(tiny.fitted(), iter(many)))
    assert set(together) == {1}


def test_heat_maps_of_a_size_asked_for():
    found = list(streaming.score_many(tiny.fitted(), tiny.pictures(1), shape=(9, 11)))
    assert found[0].heat_map.shape == (9, 11)
    assert np.isfinite(found[0].heat_map).all()


def test_refuses_a_depth_below_one():
    with pytest.raises(ValueError, match="depth"):
        next(streaming.score_many(tiny.fitted(), tiny.pictures(1), depth=0))
