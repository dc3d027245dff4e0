"""Checkpoints of residual networks as torch would hold them, drawn by the rule."""

import dataclasses
import functools

import numpy as np
from flax import traverse_util
from golden.backbone import rule

from gladjax.backbone import network, resnet
from gladjax.backbone.entries import entry, variant


def spec_of(name, filter_size, head=0):
    spec = entry(variant(name, filter_size=filter_size)).spec
    return dataclasses.replace(spec, folded=False, head=head)


@functools.lru_cache(maxsize=2)
def state_dict(name, filter_size, head=0, draw=rule.weight):
    """A checkpoint as torch would hold it, its weights drawn by the rule."""
    spec = spec_of(name, filter_size, head)
    _, abstract = network.template(resnet.MODULE, spec)
    flat = traverse_util.flatten_dict(abstract, sep="/")
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    state = {}
    for path, key in resnet.names(spec).items():
        shape = flat[path].shape
        shape = tuple(shape[axis] for axis in axes[len(shape)])
        state[key] = draw(key, shape)
        if key.endswith("running_var"):
            counter = key.replace("running_var", "num_batches_tracked")
            state[counter] = np.asarray(7)
    for key, value in resnet.filters(spec).items():
        state[key] = np.asarray(value, np.float32)
    return state
