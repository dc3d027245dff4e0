"""One file for a detector: safetensors with a JSON header and a checksum.

`container` writes and reads named arrays with a header; `bundle` knows which arrays and
which header make a detector, and checks every one of them.
"""

from gladjax.io.bundle import VERSION as VERSION
from gladjax.io.bundle import describe as describe
from gladjax.io.bundle import load as load
from gladjax.io.bundle import save as save
from gladjax.io.container import ModelError as ModelError
from gladjax.io.validation import MAX_SIDE as MAX_SIDE
from gladjax.io.validation import Description as Description

__all__ = [
    "MAX_SIDE",
    "VERSION",
    "Description",
    "ModelError",
    "describe",
    "load",
    "save",
]
