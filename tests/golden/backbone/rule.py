"""The rule by which both sides of a golden test draw weights, images and samples.

Every array comes from its own Philox generator, keyed by the array's name, so that
neither order nor the other arrays matter and nothing need be stored. NumPy only: the
generator runs it beside torch, the tests beside JAX.
"""

import hashlib
import math

import numpy as np

SAMPLES = 160
SIZES = ((256, 256), (224, 320), (250, 186))
LAYERS = ("layer1", "layer2", "layer3")


def generator(name):
    """A generator of its own for each name."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16])))


def weight(name, shape):
    """One tensor of a network in PyTorch's naming: kernels after He, batch norms (and
    everything else of one axis) neither 0 nor 1."""
    rng = generator(name)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    gain = 2.0 if len(shape) == 4 else 1.0
    scale = math.sqrt(gain / math.prod(shape[1:]))
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def images(height, width):
    """One normalised image, (1, h, w, 3)."""
    rng = generator(f"images {height} {width}")
    return rng.standard_normal((1, height, width, 3)).astype(np.float32)


def photograph(height, width):
    """One smooth image with edges, (h, w, 3), 8-bit."""
    rng = generator(f"photograph {height} {width}")
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = sum(
        np.sin(2 * np.pi * (fy * y + fx * x) + phase)[..., None] * colour
        for fy, fx, phase, colour in zip(
            rng.uniform(-6, 6, 8),
            rng.uniform(-6, 6, 8),
            rng.uniform(0, 6, 8),
            rng.uniform(-1, 1, (8, 3)),
            strict=True,
        )
    )
    disc = ((y - 0.4) ** 2 + (x - 0.4) ** 2 < 0.05)[..., None]
    return np.clip(127 + 40 * waves + 60 * disc, 0, 255).astype(np.uint8)


def sample(shape):
    """Indices of the values that are stored of a channels-last map."""
    total = math.prod(shape)
    return generator(f"sample {shape}").permutation(total)[:SAMPLES]


def worst(maps, golden, prefix):
    """Largest error of each tap, relative to the map's largest value."""
    errors = {}
    for layer in LAYERS:
        found = np.asarray(maps[layer], np.float64)
        key = f"{prefix}/{layer}"
        assert found.shape == tuple(golden[f"{key}/shape"]), layer
        drawn = found.ravel()[sample(found.shape)]
        error = np.abs(drawn - golden[f"{key}/sample"]).max()
        errors[layer] = float(error / golden[f"{key}/largest"])
    return errors
