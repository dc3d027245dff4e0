"""EfficientNet-Lite, see `gladjax.backbone.efficientnet_lite`."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from gladjax.backbone.efficientnet_lite import (
    EPSILON,
    HEAD,
    STEM,
    BlockSpec,
    Spec,
    blocks,
    taps,
)
from gladjax.backbone.layers import ConvNorm, Dense, Form, relu6
from gladjax.backbone.network import LAYERS


class Block(nnx.Module):
    """An inverted residual block; returns its wide activation and its output."""

    def __init__(self, spec: BlockSpec, *, folded: bool) -> None:
        """Allocates zero weights."""
        inner = spec.dim_in * spec.expand
        self.residual = spec.stride == 1 and spec.dim_in == spec.dim_out
        self.expands, self.projects = spec.expand > 1, spec.project
        form = Form(EPSILON, folded)
        if self.expands:
            self.expand = ConvNorm(spec.dim_in, inner, 1, form=form)
        self.depthwise = ConvNorm(
            inner,
            inner,
            spec.size,
            stride=spec.stride,
            pad=None,
            depthwise=True,
            form=form,
        )
        if self.projects:
            self.project = ConvNorm(inner, spec.dim_out, 1, form=form)

    def __call__(
        self, x: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n _h _w e"], Float[Array, "n _h _w d"]]:
        """Applies the block."""
        inner = relu6(self.expand(x)) if self.expands else x
        inner = relu6(self.depthwise(inner))
        if not self.projects:
            return inner, inner
        y = self.project(inner)
        return inner, x + y if self.residual else y


class EfficientNetLite(nnx.Module):
    """The network as a map from normalised images to named maps."""

    def __init__(self, spec: Spec) -> None:
        """Allocates zero weights."""
        self.spec = spec
        known = blocks(spec)
        self.num_blocks = len(known)
        form = Form(EPSILON, spec.folded)
        self.stem = ConvNorm(3, STEM, 3, stride=2, pad=None, form=form)
        for index, block in enumerate(known):
            setattr(self, f"block{index}", Block(block, folded=spec.folded))
        if spec.head:
            self.last = ConvNorm(known[-1].dim_out, HEAD, 1, form=form)
            self.classifier = Dense(HEAD, spec.head)

    def __call__(self, images: Float[Array, "n h w 3"]) -> dict[str, Array]:
        """Returns the maps of the taps and, with a head, the ``logits``."""
        tapped = dict(zip(taps(self.spec), LAYERS, strict=True))
        maps = {}
        x = relu6(self.stem(images))
        for index in range(self.num_blocks):
            inner, x = getattr(self, f"block{index}")(x)
            if index in tapped:
                maps[tapped[index]] = inner if self.spec.wide else x
        if self.spec.head:
            pooled = jnp.mean(relu6(self.last(x)), axis=(1, 2))
            maps["logits"] = self.classifier(pooled)
        return maps
