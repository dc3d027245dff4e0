"""The metrics against their twins, scikit-learn and SciPy, and by their laws."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import oracles_metrics as oracles
import pytest
import scipy.ndimage
import sklearn.metrics

from gladjax import metrics

EIGHT = np.ones((3, 3))


def example(rng, *, levels=None, shape=(9, 11), count=4):
    """Masks with several regions, and maps that know a little about them."""
    masks = [rng.random(shape) < 0.12 for _ in range(count - 1)] + [
        np.zeros(shape, bool)
    ]
    maps = [mask + rng.normal(size=shape) for mask in masks]
    if levels:
        maps = [np.round(s * levels) / levels for s in maps]
    return masks, maps


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_auroc_matches_the_twin_and_scikit_learn(rng, levels):
    labels = rng.integers(0, 2, 60)
    scores = rng.normal(size=60) + labels
    scores = np.round(scores * levels) / levels if levels else scores
    area = metrics.auroc(labels, scores)
    assert area == pytest.approx(oracles.auroc(labels, scores), abs=1e-14)
    assert area == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, scores), abs=1e-14
    )


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_pixel_auroc_matches_scikit_learn(rng, levels):
    masks, maps = example(rng, levels=levels)
    expected = sklearn.metrics.roc_auc_score(np.ravel(masks), np.ravel(maps))
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("levels", [None, 1, 4])
@pytest.mark.parametrize("max_fpr", [0.01, 0.3, 0.77, 1.0])
def test_aupro_matches_the_twin(rng, levels, max_fpr):
    masks, maps = example(rng, levels=levels)
    expected = oracles.aupro(masks, maps, max_fpr)
    assert metrics.aupro(masks, maps, max_fpr=max_fpr) == pytest.approx(
        expected, abs=1e-12
    )


def test_the_default_limit_is_thirty_percent(rng):
    masks, maps = example(rng)
    assert metrics.aupro(masks, maps) == metrics.aupro(masks, maps, max_fpr=0.3)


def test_aupro_of_one_region_without_a_limit_is_the_pixel_auroc(rng):
    mask = np.zeros((20, 30), bool)
    mask[3:9, 5:20] = True
    maps = [rng.normal(size=mask.shape)]
    area = metrics.aupro([mask], maps, max_fpr=1.0)
    assert area == pytest.approx(metrics.pixel_auroc([mask], maps), abs=1e-14)


def test_aupro_weighs_regions_equally():
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    mask[9, 9] = True
    scores = mask.astype(float)
    scores[9, 9] = -1.0
    assert metrics.aupro([mask], [scores]) == pytest.approx(0.5, abs=1e-14)


def test_roc_curve_has_the_area_and_matches_scikit_learn(rng):
    labels = rng.integers(0, 2, 40)
    scores = np.round(rng.normal(size=40) + labels, 1)
    fpr, tpr = metrics.roc_curve(labels, scores)
    x, y, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, x, rtol=1e-14)
    np.testing.assert_allclose(tpr, y, rtol=1e-14)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(labels, scores))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (17, 23), (64, 64)])
@pytest.mark.parametrize("density", [0.0, 0.15, 0.4, 0.6, 1.0])
def test_regions_match_scipy(rng, shape, density):
    mask = rng.random(shape) < density
    expected, _ = scipy.ndimage.label(mask, EIGHT)
    np.testing.assert_array_equal(metrics.label_regions(mask), expected)


def test_regions_of_spirals_and_combs_match_scipy():
    spiral = np.zeros((41, 41), np.uint8)
    y = x = 20
    for turn in range(19):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(2 * (turn // 2 + 1)):
            spiral[y, x] = 1
            y, x = y + dy, x + dx
    comb = np.zeros((30, 61), np.uint8)
    comb[:, ::4] = 255
    comb[-1, ::2] = 255
    comb[-1] = 255
    for mask in (spiral, comb, comb[::-1], comb.T, 1 - spiral, np.eye(9)[::-1]):
        expected, count = scipy.ndimage.label(mask, EIGHT)
        found = metrics.label_regions(mask)
        np.testing.assert_array_equal(found, expected)
        assert found.max() == count


@hypothesis.given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_regions_of_any_mask_match_scipy_and_the_twin(mask):
    expected, count = scipy.ndimage.label(mask, EIGHT)
    np.testing.assert_array_equal(metrics.label_regions(mask), expected)
    assert len(oracles.regions(mask)) == count


SCORES = st.floats(-5, 5, width=16) | st.sampled_from([np.inf, -np.inf, 0.0, -0.0])


@hypothesis.given(st.lists(st.tuples(st.booleans(), SCORES), min_size=2, max_size=30))
@hypothesis.settings(max_examples=150, deadline=None)
def test_auroc_of_any_scores_matches_the_twin_and_its_laws(pairs):
    labels = np.array([label for label, _ in pairs], int)
    scores = np.array([score for _, score in pairs])
    hypothesis.assume(0 < labels.sum() < labels.size)
    area = metrics.auroc(labels, scores)
    assert area == pytest.approx(oracles.auroc(labels, scores), abs=1e-14)
    assert metrics.auroc(1 - labels, scores) == pytest.approx(1 - area, abs=1e-14)
    assert metrics.auroc(labels, np.arctan(scores)) == pytest.approx(area, abs=1e-14)


def test_only_the_order_counts_however_far_the_scores_reach(rng):
    masks, maps = example(rng, levels=3)
    far = [s * 1e30 - 1e33 for s in (np.round(s * 3) for s in maps)]
    far = [np.where(s == s.max(), np.inf, s) for s in far]
    near = [np.where(s == s.max(), 99.0, s) for s in maps]
    for metric in (metrics.pixel_auroc, metrics.aupro):
        assert metric(masks, far) == pytest.approx(metric(masks, near), abs=1e-14)


def test_infinities_and_unresolvable_neighbours_are_ordered():
    labels = [0, 0, 1, 1]
    assert metrics.auroc(labels, [-np.inf, 0.0, 0.0, np.inf]) == 0.875
    one = np.nextafter(1.0, 2.0)
    assert metrics.auroc(labels, [-5.0, 1.0, one, one]) == 1.0
    assert metrics.auroc([0, 1], [2**53, 2**53 + 1]) == 0.5  # equal in float64
    low = np.float32([1, 1, 1 + 2**-23, 1 + 2**-23])
    assert metrics.auroc(labels, low) == 1.0


def test_constant_perfect_and_inverted_maps():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    for scores, area, pro in (
        (mask * 1.0, 1, 1),
        (mask * -1.0, 0, 0),
        (mask * 0.0, 0.5, 0.15),
    ):
        assert metrics.pixel_auroc([mask], [scores]) == pytest.approx(area)
        assert metrics.aupro([mask], [scores]) == pytest.approx(pro)


def test_jax_arrays_generators_and_png_masks_are_taken(rng):
    masks, maps = example(rng)
    png = (mask.astype(np.uint8) * 255 for mask in masks)
    lazy = (jnp.asarray(s, jnp.float32) for s in maps)
    single = [s.astype(np.float32) for s in maps]
    assert metrics.aupro(png, lazy) == metrics.aupro(masks, single)
    labels = jnp.asarray([0, 1, 1])
    assert metrics.auroc(labels, jnp.asarray([0.0, 1.0, -1.0])) == 0.5


def test_no_masks_mean_no_number(rng):
    assert metrics.pixel_auroc(None, [np.zeros((2, 2))]) is None
    assert metrics.aupro(None, [np.zeros((2, 2))]) is None


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 0], [1.0, 2.0], "nothing is anomalous"),
        ([1, 1], [1.0, 2.0], "nothing is normal"),
        ([0, 1], [1.0, np.nan], "score 1 is NaN"),
        ([0, 2], [1.0, 2.0], "neither 0 nor 1"),
        ([0, 1, 1], [1.0, 2.0], "do not match"),
        ([], [], "nothing is"),
    ],
)
def test_auroc_refuses(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.auroc(labels, scores)


@pytest.mark.parametrize("metric", [metrics.pixel_auroc, metrics.aupro])
def test_pixel_metrics_refuse(metric):
    mask, scores = np.eye(3, dtype=bool), np.zeros((3, 3))
    with pytest.raises(ValueError, match="nothing is anomalous"):
        metric([mask & False], [scores])
    with pytest.raises(ValueError, match="nothing is normal"):
        metric([mask | True], [scores])
    with pytest.raises(ValueError, match="map 1 has NaN"):
        metric([mask, mask], [scores, scores * np.nan])
    with pytest.raises(ValueError, match=r"mask 0 is \(3, 3\), its map \(4, 4\)"):
        metric([mask], [np.zeros((4, 4))])
    with pytest.raises(ValueError, match=r"zip\(\)"):
        metric([mask], [scores, scores])


@pytest.mark.parametrize("max_fpr", [0.0, -0.1, 1.5, np.nan])
def test_aupro_refuses_limits_out_of_range(max_fpr):
    with pytest.raises(ValueError, match="max_fpr"):
        metrics.aupro([np.eye(2)], [np.eye(2)], max_fpr=max_fpr)


def test_full_size_equals_scikit_learn():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(16, 256, 256)).astype(np.float32)
    masks = np.zeros(noise.shape, bool)
    for i in range(12):
        masks[i, 20 * (i % 9) : 20 * (i % 9) + 30, 50 : 60 + 4 * i] = True
        masks[i, 240:, 10:40] = True
    maps = noise + masks
    expected = sklearn.metrics.roc_auc_score(masks.ravel(), maps.ravel())
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-12)
    x, y = _pro_curve(masks, maps)
    keep = x <= 0.3
    x, y = np.append(x[keep], 0.3), np.append(y[keep], np.interp(0.3, x, y))
    expected = np.trapezoid(y, x) / 0.3
    assert metrics.aupro(masks, maps) == pytest.approx(expected, abs=1e-10)


def _pro_curve(masks, maps):
    """The curve by one sort of all pixels, for scores without ties."""
    weights, count = np.zeros(masks.shape), 0
    for weight, mask in zip(weights, masks, strict=True):
        labels, found = scipy.ndimage.label(mask, EIGHT)
        for number in range(1, found + 1):
            weight[labels == number] = 1 / (labels == number).sum()
        count += found
    order = np.argsort(-maps.ravel(), kind="stable")
    normal = ~masks.ravel()[order]
    last = np.append(np.diff(maps.ravel()[order]) != 0, True)
    x = np.cumsum(normal) / normal.sum()
    y = np.cumsum(weights.ravel()[order]) / count
    return np.append(0, x[last]), np.append(0, y[last])
