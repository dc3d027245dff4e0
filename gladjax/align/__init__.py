"""Alignment of images with a reference.

`register` finds the motion of one image, `register_batch` of many; `warp` applies it
and says which pixels are known. `coarse_search` finds rough motions at any angle.
`choose_reference` and `decide` look at the training images; `motion_range`,
`is_plausible` and `judge` tell motions that do not belong to them.
"""

from gladjax.align.coarse import coarse_search as coarse_search
from gladjax.align.plan import AlignInfo as AlignInfo
from gladjax.align.plan import Options as Options
from gladjax.align.plausible import MotionRange as MotionRange
from gladjax.align.plausible import is_plausible as is_plausible
from gladjax.align.plausible import judge as judge
from gladjax.align.plausible import motion_range as motion_range
from gladjax.align.reference import Decision as Decision
from gladjax.align.reference import choose_reference as choose_reference
from gladjax.align.reference import decide as decide
from gladjax.align.registration import register as register
from gladjax.align.registration import register_batch as register_batch
from gladjax.align.sampling import warp as warp
from gladjax.align.sampling import warp_batch as warp_batch
from gladjax.align.transform import compose as compose
from gladjax.align.transform import end_point_error as end_point_error
from gladjax.align.transform import euclidean as euclidean
from gladjax.align.transform import inverse as inverse
from gladjax.align.transform import rescale as rescale

__all__ = [
    "AlignInfo",
    "Decision",
    "MotionRange",
    "Options",
    "choose_reference",
    "coarse_search",
    "compose",
    "decide",
    "end_point_error",
    "euclidean",
    "inverse",
    "is_plausible",
    "judge",
    "motion_range",
    "register",
    "register_batch",
    "rescale",
    "warp",
    "warp_batch",
]
