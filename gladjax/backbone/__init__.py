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
from gladjax.backbone.checkpoint import CheckpointError as CheckpointError
from gladjax.backbone.checkpoint import content_hash as content_hash
from gladjax.backbone.checkpoint import read_checkpoint as read_checkpoint
from gladjax.backbone.conversion import convert as convert
from gladjax.backbone.download import FetchError as FetchError
from gladjax.backbone.download import fetch as fetch
from gladjax.backbone.entries import Entry as Entry
from gladjax.backbone.entries import catalogue as catalogue
from gladjax.backbone.entries import entry as entry
from gladjax.backbone.network import classify as classify
from gladjax.backbone.network import fold as fold
from gladjax.backbone.registry import from_torch as from_torch
from gladjax.backbone.registry import load as load
from gladjax.backbone.registry import locate as locate
from gladjax.backbone.untrained import calibrate_batch_norm as calibrate_batch_norm
from gladjax.backbone.untrained import random as random

__all__ = [
    "Backbone",
    "CheckpointError",
    "Entry",
    "FetchError",
    "astype",
    "calibrate_batch_norm",
    "catalogue",
    "classify",
    "content_hash",
    "convert",
    "entry",
    "fetch",
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
