"""Conformal p-values and thresholds."""

import math
import warnings

import jax
import numpy as np
import pytest
from scipy import stats

from gladjax import calibrate, scoring

RATES = (0.01, 0.05, 0.07, 0.1, 0.29, 0.5)


def literal_p_value(calibration, score):
    return (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)


def test_p_values_match_the_formula_with_ties(rng):
    calibration = rng.integers(0, 6, 23).astype(float)
    values = rng.integers(-1, 8, (4, 5)).astype(float)
    expected = [[literal_p_value(calibration, v) for v in row] for row in values]
    np.testing.assert_array_equal(calibrate.p_values(calibration, values), expected)


@pytest.mark.parametrize("rate", RATES)
def test_threshold_and_p_value_decide_alike(rng, rate):
    """Score above the threshold if and only if p <= rate, in exact arithmetic."""
    hundredths = round(100 * rate)
    for n in (1, 2, 9, 19, 28, 99, 100, 199):
        calibration = rng.integers(0, 30, n).astype(float)
        values = np.arange(-1, 32).astype(float)
        # p <= rate without rounding: (1 + count) * 100 <= hundredths * (n + 1).
        count = np.array([np.sum(calibration >= v) for v in values])
        expected = (1 + count) * 100 <= hundredths * (n + 1)
        if n < calibrate.num_needed(rate):
            assert not expected.any()
            with pytest.warns(calibrate.TooFewImages, match=f"there are {n}"):
                assert calibrate.threshold(calibration, rate) is None
            continue
        threshold = calibrate.threshold(calibration, rate)
        np.testing.assert_array_equal(values > threshold, expected)


def test_num_needed_is_the_least_that_can_decide():
    assert [calibrate.num_needed(r) for r in (0.01, 0.05, 0.1, 0.5)] == [99, 19, 9, 1]
    for rate in (0.003, 0.013, 0.07, 0.29, 0.9, 0.999):
        n = calibrate.num_needed(rate)
        assert 1 / (n + 1) <= rate * (1 + 1e-9)
        assert n == 1 or 1 / n > rate


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_false_positives_are_beta_binomial(rate):
    """The count among ``m`` normal images has the law that the theory gives it.

    Over many draws its mean is ``m floor(rate (n + 1)) / (n + 1)``; the share of draws
    inside the central 95 % interval is 95 % or a little more, as the law is discrete.
    """
    n, m, draws = 60, 80, 600
    rng = np.random.default_rng(0)
    a = math.floor(rate * (n + 1))
    law = stats.betabinom(m, a, n + 1 - a)
    low, high = law.ppf([0.025, 0.975])
    counts = []
    for _ in range(draws):
        values = rng.standard_cauchy(n + m)
        threshold = calibrate.threshold(values[:n], rate)
        counts.append(np.sum(values[n:] > threshold))
    counts = np.array(counts)
    assert abs(counts.mean() - law.mean()) < 4 * law.std() / math.sqrt(draws)
    assert np.mean((counts >= low) & (counts <= high)) > 0.92
    assert counts.std() == pytest.approx(law.std(), rel=0.15)


def test_decision_with_enough_too_few_and_no_images():
    nineteen = np.arange(19.0)
    assert calibrate.decide(nineteen, 18.5) == (0.05, 18.0, True)
    assert calibrate.decide(nineteen, 18.0) == (0.1, 18.0, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibrate.decide(nineteen, 30.0, rate=0.01) == (0.05, None, None)
        assert calibrate.decide(None, 30.0) == (None, None, None)
        assert calibrate.decide(np.zeros(0), 30.0) == (None, None, None)
    assert calibrate.decide(nineteen, math.nan) == (None, 18.0, None)
    assert calibrate.decide(nineteen, math.inf).is_anomalous is True


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_p_value_map_and_score_agree(rng, rate):
    """Cells at p <= rate number a share q, to within one, where the image is called."""
    q, shape = 0.05, (12, 15)
    mask = rng.random(shape) < 0.8
    maps = rng.normal(size=(200, *shape))
    found = [float(scoring.image_score(m, mask, q=q)) for m in maps]
    calibration = np.array(found[:40])
    threshold = calibrate.threshold(calibration, rate)
    called = 0
    for log_map, score in zip(maps[40:], found[40:], strict=True):
        p = calibrate.p_value_map(calibration, log_map, mask)
        assert np.all(p[~mask] == 1)
        low = np.sum(p <= rate)
        assert low == np.sum(-log_map[mask] > threshold)
        if score > threshold:
            called += 1
            assert low >= math.floor(q * (mask.sum() - 1)) + 1
        else:
            assert low <= q * mask.sum() + 1
    assert 0 < called < 160


def test_holding_out_never_scores_what_was_learnt(rng):
    items = [f"{i}.png" for i in range(20)]
    detector, found = calibrate.scores(
        jax.random.key(0),
        items,
        lambda some: frozenset(some),
        lambda seen, item: float("nan" if item in seen else int(item[:-4])),
        num_held=6,
    )
    assert len(detector) == 14
    assert len(found) == 6
    held = {f"{int(v)}.png" for v in found}
    assert held.isdisjoint(detector)
    assert held | detector == set(items)


@pytest.mark.parametrize("num_folds", [2, 3, 7])
def test_folds_score_every_image_once_without_itself(num_folds):
    items = list(range(7))
    fits = []

    def fit(some):
        fits.append(frozenset(some))
        return fits[-1]

    detector, found = calibrate.scores(
        jax.random.key(1),
        items,
        fit,
        lambda seen, item: float("nan" if item in seen else item),
        num_folds=num_folds,
    )
    assert detector == frozenset(items)
    np.testing.assert_array_equal(found, items)
    assert len(fits) == num_folds + 1
    sizes = [7 - len(f) for f in fits[:-1]]
    assert sum(sizes) == 7
    assert max(sizes) - min(sizes) <= 1


def test_splits_depend_on_the_key_only():
    a, b = (calibrate.hold_out(jax.random.key(3), 50, num_held=9) for _ in range(2))
    c = calibrate.hold_out(jax.random.key(4), 50, num_held=9)
    np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(a[1], c[1])


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_refuses_an_impossible_rate(rate):
    with pytest.raises(ValueError, match="false-positive rate"):
        calibrate.threshold(np.arange(10.0), rate)
    with pytest.raises(ValueError, match="false-positive rate"):
        calibrate.decide(np.arange(10.0), 1.0, rate=rate)


def test_refuses_calibration_without_numbers():
    with pytest.raises(ValueError, match="NaN"):
        calibrate.threshold(np.array([1.0, math.nan]), 0.5)
    with pytest.raises(ValueError, match="no calibration"):
        calibrate.p_values(np.zeros(0), np.ones(1))


@pytest.mark.parametrize("num_held", [0, 5, 9])
def test_refuses_a_split_without_images(num_held):
    with pytest.raises(ValueError, match="5 images"):
        calibrate.hold_out(jax.random.key(0), 5, num_held=num_held)
    with pytest.raises(ValueError, match="5 images"):
        calibrate.folds(jax.random.key(0), 5, num_folds=max(num_held, 1) + 5)


@pytest.mark.parametrize("count", [0, 3])
def test_of_very_few_scores_none_is_unlike_the_others(count):
    assert len(calibrate.unlike(np.array([1.0, 2.0, 1e9])[:count])) == 0


def test_unlike_scores_are_beyond_the_outer_fence_largest_first():
    scores = np.concatenate([np.arange(100.0), [np.nan, 249.0, np.inf, 260.0, 200.0]])
    np.testing.assert_array_equal(calibrate.unlike(scores), [102, 103, 101])


def test_many_infinite_scores_hide_none_of_each_other():
    scores = np.array([np.inf, 1.0, 2.0, np.inf, -np.inf, 3.0, 1.5, np.inf, -np.inf])
    np.testing.assert_array_equal(calibrate.unlike(scores), [0, 3, 7])


def test_few_normal_scores_are_called_unlike():
    rng = np.random.default_rng(0)
    found = [len(calibrate.unlike(rng.normal(size=50))) for _ in range(1000)]
    assert sum(found) < 10
