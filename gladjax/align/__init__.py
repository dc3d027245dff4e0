"""Alignment of images with a reference.

`register` finds the motion of one image, `register_batch` of many; `warp` applies it
and says which pixels are known. `coarse_search` finds rough motions at any angle.
"""

from gladjax.align.coarse import coarse_search as coarse_search
from gladjax.align.plan import AlignInfo as AlignInfo
from gladjax.align.plan import Options as Options
from gladjax.align.registration import register as register
from gladjax.align.registration import register_batch as register_batch
from gladjax.align.sampling import warp as warp
from gladjax.align.sampling import warp_batch as warp_batch
from gladjax.align.transform import end_point_error as end_point_error
from gladjax.align.transform import inverse as inverse
from gladjax.align.transform import rescale as rescale

__all__ = [
    "AlignInfo",
    "Options",
    "coarse_search",
    "end_point_error",
    "inverse",
    "register",
    "register_batch",
    "rescale",
    "warp",
    "warp_batch",
]
