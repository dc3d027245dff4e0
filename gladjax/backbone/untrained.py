"""Backbones with random weights, had only by asking for them.

Speed, memory and shapes do not depend on the weights, so benchmarks can do without the
published ones. `random` draws kernels after He; `calibrate_batch_norm` sets the batch
norms to the statistics of given images, so that activations neither die nor explode and
the features have the spectrum of a network, not of noise.

Notation: ``key`` is a typed key from `jax.random.key`.

Differs from the reference in: nothing.

Reference: He et al. "Delving Deep into Rectifiers". ICCV 2015.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gladjax.backbone import matching, network
from gladjax.backbone.base import Backbone, from_function
from gladjax.backbone.entries import entry

PREFIX = "random:"


def random(
    key: PRNGKeyArray,
    name: str,
    *,
    images: Float[Array | np.ndarray, "n h w 3"] | None = None,
    image_size: tuple[int, int] | None = None,
    folded: bool = True,
) -> Backbone:
    """Returns a named architecture with random weights.

    Args:
      key: Source of the weights.
      name: A name that `catalogue` lists, or another filter size of it.
      images: Preprocessed images to calibrate the batch norms on; without them, means
        are 0 and variances 1.
      image_size: Height and width to work at, instead of the network's own.
      folded: Whether batch norm is folded into the convolutions.

    Returns:
      The backbone; its name begins with ``random:`` and its ``sha256`` is empty, so
      that no saved model takes it for the published one.

    Raises:
      ValueError: If there is no network of this name.
    """
    known = entry(name)
    spec = dataclasses.replace(known.spec, folded=False)
    _, abstract = network.template(known.family.module, spec)
    backbone = from_function(
        network.Network(known.family, spec),
        _draw(key, abstract),
        name=PREFIX + name,
        layers=network.LAYERS,
        image_size=image_size or known.image_size,
        offset=known.offset,
        scale=known.scale,
        licence="none",
    )
    if images is not None:
        backbone = calibrate_batch_norm(backbone, images)
    return network.fold(backbone) if folded else backbone


def calibrate_batch_norm(
    backbone: Backbone, images: Float[Array | np.ndarray, "n h w 3"]
) -> Backbone:
    """Sets the statistics of all batch norms to those of a batch of images.

    Args:
      backbone: A named network, not folded.
      images: Preprocessed images.

    Returns:
      The backbone whose activations on ``images`` have mean 0 and variance 1 in every
      channel before each batch norm's scale and offset.

    Raises:
      ValueError: If the backbone is folded or is not a named network.
    """
    function = network.described(backbone)
    if function.spec.folded:
        raise ValueError("a folded backbone has no batch norms left (folded=False)")
    from flax import nnx  # See `modules`.

    graph, _ = network.template(function.family.module, function.spec)

    @jax.jit
    def calibrate(weights: Any, images: Array) -> Any:  # noqa: ANN401 - any pytree
        module = nnx.merge(graph, weights)
        module.set_attributes(calibrating=True)
        module(images)
        return nnx.to_pure_dict(nnx.state(module))

    return dataclasses.replace(
        backbone, weights=calibrate(backbone.weights, jnp.asarray(images))
    )


def _draw(key: PRNGKeyArray, abstract: Any) -> Any:  # noqa: ANN401 - any pytree
    """Kernels of variance 2 over their inputs; scales and variances 1; the rest 0.

    Tables (tokens, positions) have a standard deviation of 0.02.

    The key seeds a generator on the host: drawing on the device would compile a
    program for each shape.
    """
    generator = np.random.default_rng(np.asarray(jax.random.bits(key, (8,), "uint32")))
    flat: dict[str, Any] = matching.flat(abstract)
    weights = {}
    for path, leaf in flat.items():
        kind = path.rpartition("/")[2]
        if kind == "kernel":
            deviation = np.float32(math.sqrt(2.0 / math.prod(leaf.shape[:-1])))
            drawn = generator.standard_normal(leaf.shape, np.float32)
            weights[path] = jnp.asarray(deviation * drawn)
        elif len(leaf.shape) > 1:
            drawn = generator.standard_normal(leaf.shape, np.float32)
            weights[path] = jnp.asarray(np.float32(0.02) * drawn)
        else:
            fill = 1.0 if kind in ("scale", "variance") else 0.0
            weights[path] = jnp.full(leaf.shape, fill, jnp.float32)
    return matching.nested(weights)
