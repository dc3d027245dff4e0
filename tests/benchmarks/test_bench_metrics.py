"""Time of the pixel metrics at the size of one category: 200 maps of 256 x 256."""

import numpy as np
import pytest

from gladjax import metrics


@pytest.mark.parametrize("metric", [metrics.pixel_auroc, metrics.aupro])
def test_pixel_metrics_of_a_category(benchmark, metric):
    rng = np.random.default_rng(0)
    masks = np.zeros((200, 256, 256), bool)
    for i in range(150):
        masks[i, 20 : 60 + i % 30, 30:90] = True
        masks[i, 200:210, 5:200] = True
    maps = rng.standard_normal(masks.shape, np.float32) + masks
    area = benchmark.pedantic(metric, args=(masks, maps), rounds=3)
    assert 0.4 < area < 0.8
