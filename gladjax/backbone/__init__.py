"""Frozen networks: images in, named feature maps out.

A `Backbone` is a pytree of weights, a preprocessing description and a pure function.
`load` makes one from a published checkpoint, `from_torch` from tensors,
`from_function` from any network.
"""

from gladjax.backbone.base import Backbone as Backbone
from gladjax.backbone.base import astype as astype
from gladjax.backbone.base import from_function as from_function
from gladjax.backbone.base import normalise as normalise
from gladjax.backbone.base import preprocess as preprocess
from gladjax.backbone.base import resize as resize
from gladjax.backbone.catalogue import Entry as Entry
from gladjax.backbone.catalogue import catalogue as catalogue
from gladjax.backbone.catalogue import entry as entry
from gladjax.backbone.checkpoint import CheckpointError as CheckpointError
from gladjax.backbone.checkpoint import content_hash as content_hash
from gladjax.backbone.checkpoint import read_checkpoint as read_checkpoint
from gladjax.backbone.network import classify as classify
from gladjax.backbone.network import fold as fold
from gladjax.backbone.random import calibrate_batch_norm as calibrate_batch_norm
from gladjax.backbone.random import random as random
from gladjax.backbone.registry import from_torch as from_torch
from gladjax.backbone.registry import load as load
from gladjax.backbone.registry import locate as locate

__all__ = [
    "Backbone",
    "CheckpointError",
    "Entry",
    "astype",
    "calibrate_batch_norm",
    "catalogue",
    "classify",
    "content_hash",
    "entry",
    "fold",
    "from_function",
    "from_torch",
    "load",
    "locate",
    "normalise",
    "preprocess",
    "random",
    "read_checkpoint",
    "resize",
]
