"""A tiny backbone and detector, fitted in a moment, for the tests of the product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gladjax import backbone, datasets, detector

SIDE = 32


def _maps(weights, images):
    """Two layers: a strided convolution, and another one of twice the stride."""

    def layer(kernel, stride):
        x = jax.lax.conv_general_dilated(
            images,
            kernel.astype(images.dtype),
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.tanh(x)

    return {"fine": layer(weights["fine"], 4), "coarse": layer(weights["coarse"], 8)}


@functools.cache
def network(seed=0):
    """A backbone of random filters, 5 and 7 channels on 8 x 8 and 4 x 4."""
    rng = np.random.default_rng(seed)
    weights = {
        "fine": jnp.asarray(rng.normal(size=(5, 5, 3, 5)) / 4, jnp.float32),
        "coarse": jnp.asarray(rng.normal(size=(9, 9, 3, 7)) / 8, jnp.float32),
    }
    return backbone.from_function(
        _maps,
        weights,
        name="tiny",
        layers=("fine", "coarse"),
        image_size=(SIDE, SIDE),
        licence="none",
    )


def pictures(count, *, kind="good", first=0, category="texture", size=40):
    """Images of the synthetic data set."""
    return [
        datasets.draw(category, kind=kind, number=first + i, size=size)[0]
        for i in range(count)
    ]


@functools.cache
def fitted(*, motion="", local=True, seed=0, neighbourhood=1):
    """A detector of twelve images, in well under a second."""
    return detector.fit(
        jax.random.key(seed),
        network(),
        pictures(12),
        settings=detector.Settings(
            num_components=12,
            max_steps=5,
            motion=motion,
            local=local,
            neighbourhood=neighbourhood,
        ),
    )
