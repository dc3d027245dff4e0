"""Pruned assignment against the dense argmin on real features, K = 1000.

    pytest tests/benchmarks/test_bench_assign.py --benchmark-only -n 0

The whole of it, with fits to the paper's rule and checks in float64, is `python -m
gladjax.experiments.performance assignment`; here the fit stops early. On two cores the
dense argmin takes some minutes.
"""

import pytest

from gladjax.experiments.performance import assignment


@pytest.mark.parametrize("width", assignment.WIDTHS)
def test_nearest_of_real_features(benchmark, width):
    record = benchmark.pedantic(
        assignment.measure, args=(width,), kwargs={"max_steps": 5}, rounds=1
    )
    benchmark.extra_info.update(record)
    assert record["unlike_float64"] == record["of_them_ties"]
    assert record["dense_share_of_peak"] > 0.5
    assert record["times_faster"] > 1
