"""Residual networks, see `gladjax.backbone.resnet`."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from gladjax.backbone import blurpool, resnet
from gladjax.backbone.layers import ConvNorm, Dense, Form
from gladjax.backbone.network import LAYERS


class Block(nnx.Module):
    """A residual block, basic or bottleneck."""

    def __init__(self, block: resnet.BlockSpec, spec: resnet.Spec) -> None:
        """Allocates zero weights."""
        form = Form(resnet.EPSILON, spec.folded, spec.fast)
        blurs = spec.filter_size is not None and block.stride > 1
        self.blur = spec.filter_size if blurs else None
        stride = 1 if blurs else block.stride
        self.bottleneck, self.shortcut = spec.bottleneck, block.shortcut
        w = block.width
        if spec.bottleneck:
            self.conv1 = ConvNorm(block.dim_in, w, 1, form=form)
            self.conv2 = ConvNorm(w, w, 3, stride=stride, pad=1, form=form)
            self.conv3 = ConvNorm(w, block.dim, 1, form=form)
        else:
            self.conv1 = ConvNorm(block.dim_in, w, 3, stride=stride, pad=1, form=form)
            self.conv2 = ConvNorm(w, block.dim, 3, pad=1, form=form)
        if block.shortcut:
            self.down = ConvNorm(block.dim_in, block.dim, 1, stride=stride, form=form)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n _h _w d"]:
        """Applies the block."""
        y = jax.nn.relu(self.conv1(x))
        if self.bottleneck:
            y = jax.nn.relu(self.conv2(y))
        if self.blur is not None:
            x, y = blurpool.blur_pool(x, self.blur), blurpool.blur_pool(y, self.blur)
        y = self.conv3(y) if self.bottleneck else self.conv2(y)
        return jax.nn.relu(y + (self.down(x) if self.shortcut else x))


class ResNet(nnx.Module):
    """The network as a map from normalised images to named maps."""

    def __init__(self, spec: resnet.Spec) -> None:
        """Allocates zero weights."""
        self.spec = spec
        self.stem = ConvNorm(
            3, resnet.STEM, 7, stride=2, pad=3, form=Form(resnet.EPSILON, spec.folded)
        )
        blocks = resnet.blocks(spec)
        for block in blocks:
            setattr(self, resnet.path(block), Block(block, spec))
        if spec.head:
            self.classifier = Dense(blocks[-1].dim, spec.head)

    def __call__(self, images: Float[Array, "n h w 3"]) -> dict[str, Array]:
        """Returns the maps of the taps and, with a head, the ``logits``."""
        x = _pool(jax.nn.relu(self.stem(images)), self.spec.filter_size)
        maps = {}
        for block in resnet.blocks(self.spec):
            x = getattr(self, resnet.path(block))(x)
            if block.stage <= len(LAYERS):
                maps[LAYERS[block.stage - 1]] = x
        if self.spec.head:
            maps["logits"] = self.classifier(jnp.mean(x, axis=(1, 2)))
        return maps


def _pool(
    x: Float[Array, "n h w c"], filter_size: int | None
) -> Float[Array, "n _h _w c"]:
    """Max-pooling behind the stem: 3 x 3 of stride 2, or 2 x 2 of stride 1 and blur."""
    if filter_size is None:
        return _maximum(x, side=3, stride=2, pad=1)
    return blurpool.blur_pool(_maximum(x, side=2, stride=1, pad=0), filter_size)


def _maximum(
    x: Float[Array, "n h w c"], *, side: int, stride: int, pad: int
) -> Float[Array, "n _h _w c"]:
    """Max-pooling as maxima of shifted slices, three times as fast as a window."""
    lowest = jnp.asarray(-jnp.inf, x.dtype)
    for axis in (1, 2):
        pads = [(0, 0, 0)] * 4
        pads[axis] = (pad, pad, 0)
        padded = lax.pad(x, lowest, pads)
        count = (padded.shape[axis] - side) // stride + 1
        stop = (count - 1) * stride + 1
        slices = [
            lax.slice_in_dim(padded, i, i + stop, stride, axis) for i in range(side)
        ]
        x = functools.reduce(jnp.maximum, slices)
    return x
