"""How long a fit will take."""

import dataclasses
import itertools
import math

import tiny

from gladjax import cache, programs
from gladjax.cli import forecast
from gladjax.cli.forecast import Forecast
from gladjax.detector import Settings

NAME, SIZE = forecast.TYPICAL
USUAL = dataclasses.replace(tiny.network(), name=NAME, image_size=SIZE)


def usual(last, settings=None, calibration="left-out"):
    return Forecast(last, USUAL, settings or Settings(), calibration)


def test_what_is_typical_until_a_fit_is_known(monkeypatch, tmp_path):
    new = programs.Last(0, {})
    # Measured, experiments/performance/everyday.json: first run, and later.
    for count, first, later in ((30, 38.6, 9.3), (213, 55.0, 24.2), (320, 60.4, 34.6)):
        assert 0.5 < usual(new).seconds(count) / first < 2
        # Programs of other fits may not be those of this one.
        assert usual(programs.Last(9, {})).seconds(count) == usual(new).seconds(count)
        assert 0.5 < (usual(new).seconds(count) - forecast.COMPILING) / later < 2
    words = "30 images: about 40 s, with what is compiled"
    monkeypatch.setattr(cache, "kept", lambda: None)
    assert usual(new).words(30) == words
    monkeypatch.setattr(cache, "kept", lambda: tmp_path)
    assert usual(new).words(30) == f"{words} the first time"
    assert usual(new).words(2000).startswith("2000 images: about 3 min, with")


def test_copies_are_images_too(monkeypatch, capsys):
    last = programs.Last(9, {})
    plain, turned = Settings(), Settings(augment="dihedral")
    known = usual(last, turned).seconds(30)
    assert known == usual(last).seconds(240)
    course = forecast.Course(last, USUAL, "left-out", quiet=False)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now)
    now = 110.0
    monkeypatch.setattr(forecast, "compiling", lambda: compiled)
    compiled = 20.0
    course.begins(plain, 30, 100.0)
    compiled = 23.0
    course.begins(turned, 30, now, why="copies: ")
    now, compiled = 150.0, 28.0
    course.ends()
    course.ends()
    assert usual(last).seconds(30) == 10 - 3
    assert usual(last, turned).seconds(30) == 40 - 5
    course.begins(turned, 30, now, why="again: ")
    now = 151.0
    course.breaks_off()
    course.ends()
    assert usual(last, turned).seconds(30) == 40 - 5
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("30 images: about")
    assert second.startswith("copies: 30 images: about")


def test_of_other_kinds_nothing_is_said_before_the_first():
    last = programs.Last(9, {})
    others = [
        usual(last, Settings.paper()),
        usual(last, calibration="split"),
        Forecast(last, tiny.network(), Settings(), "left-out"),
    ]
    for other in others:
        assert other.seconds(30) is None
        assert "after the first time" in other.words(30)
        other.note(30, 400.0)
    assert len(last.notes) == len(others)
    again = usual(last, Settings.paper())
    assert again.seconds(30) == 400
    assert again.words(30) == "30 images: about 7 min"
    assert 400 < again.seconds(60) < 800
    assert usual(last).seconds(30) < 50


def test_the_nearest_fit_tells(monkeypatch):
    compiled = itertools.cycle([0.0, 25.0])  # Before a fit, and after it.
    monkeypatch.setattr(forecast, "compiling", lambda: next(compiled))
    last = programs.Last(0, {})
    usual(last).note(30, 45.0)
    usual(last).note(320, 125.0)
    known = usual(programs.Last(9, last.notes))
    assert known.seconds(30) == 20
    assert known.seconds(320) == 100
    assert known.words(30) == "30 images: about 20 s"
    assert 20 < known.seconds(40) < 25
    assert 90 < known.seconds(300) < 100
    # Fits of another size compile some programs; and those of before may be gone.
    assert 50 < known.seconds(130) - forecast.COMPILING < 55
    assert known.seconds(2000) > 300
    assert usual(last).seconds(30) == 20 + forecast.COMPILING


def test_few_fits_are_remembered():
    last = programs.Last(9, {})
    for n in range(3 * forecast.KEPT):
        usual(last).note(n + 1, 10.0)
        usual(last, Settings(max_steps=n + 1)).note(30, 10.0)
    assert len(last.notes) == forecast.KEPT
    assert max(map(len, last.notes.values())) == forecast.KEPT
    assert usual(last).seconds(3 * forecast.KEPT) == 10


def test_damaged_notes_say_nothing():
    last = programs.Last(9, {})
    usual(last).note(30, 300.0)
    (kind,) = last.notes
    for bad in (
        3,
        [],
        {"x": 1.0},
        {"30": "long"},
        {"30": None},
        {"30": -1.0},
        {"30": math.inf},
    ):
        known = usual(programs.Last(9, {kind: bad}))
        assert known.seconds(30) == usual(programs.Last(9, {})).seconds(30)
