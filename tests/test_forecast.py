"""How long a fit will take."""

import dataclasses
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
    cold, warm = programs.Last(0, {}), programs.Last(9, {})
    # Measured, experiments/performance/everyday.json: first run, and later.
    for count, first, later in ((30, 38.6, 9.3), (213, 55.0, 24.2), (320, 60.4, 34.6)):
        assert 0.5 < usual(cold).seconds(count) / first < 2
        assert 0.5 < usual(warm).seconds(count) / later < 2
    monkeypatch.setattr(cache, "kept", lambda: None)
    assert usual(cold).words(30) == "30 images: about 40 s, most of it compiling"
    monkeypatch.setattr(cache, "kept", lambda: tmp_path)
    assert usual(cold).words(30) == "30 images: about 40 s, most of it compiling, once"
    assert usual(warm).words(30) == "30 images: about 10 s"
    assert usual(warm).words(2000) == "2000 images: about 3 min"


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
    assert 400 < again.seconds(60) < 800
    assert usual(last).seconds(30) < 20


def test_the_nearest_fit_tells(monkeypatch):
    monkeypatch.setattr(forecast, "compiling", lambda: 25.0)
    last = programs.Last(0, {})
    usual(last).note(30, 45.0)
    usual(last).note(320, 125.0)
    known = usual(programs.Last(9, last.notes))
    assert known.seconds(30) == 20
    assert known.seconds(320) == 100
    assert 20 < known.seconds(40) < 25
    assert 90 < known.seconds(300) < 100
    assert usual(last).seconds(30) == 20 + forecast.COMPILING  # The programs are gone.


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
