"""Images from files as RGB arrays, and back.

`pixels` reads, resizes and writes one image; `streams` makes many files a sequence.
"""

from gladjax.images.pixels import MAX_PIXELS as MAX_PIXELS
from gladjax.images.pixels import SUFFIXES as SUFFIXES
from gladjax.images.pixels import ImageError as ImageError
from gladjax.images.pixels import decode as decode
from gladjax.images.pixels import read as read
from gladjax.images.pixels import resize as resize
from gladjax.images.pixels import shape as shape
from gladjax.images.pixels import write_png as write_png
from gladjax.images.streams import Checked as Checked
from gladjax.images.streams import Lazy as Lazy
from gladjax.images.streams import check as check
from gladjax.images.streams import outcomes as outcomes
from gladjax.images.streams import prefetch as prefetch

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Checked",
    "ImageError",
    "Lazy",
    "check",
    "decode",
    "outcomes",
    "prefetch",
    "read",
    "resize",
    "shape",
    "write_png",
]
