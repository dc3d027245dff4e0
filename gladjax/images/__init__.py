"""Images from files as RGB arrays, and back.

`pixels` reads, resizes and writes one image; `arrays` is for images that are arrays
already; `streams` makes many files a sequence, `pipes` takes their names as they come;
`listing` finds them below a folder; `depths` says what values of more than 8 bits mean;
`survey` gets to know a set.
"""

from gladjax.images.arrays import photograph as photograph
from gladjax.images.arrays import saturated as saturated
from gladjax.images.arrays import standard as standard
from gladjax.images.depths import UNKNOWN as UNKNOWN
from gladjax.images.depths import Depth as Depth
from gladjax.images.headers import ImageError as ImageError
from gladjax.images.headers import StrPath as StrPath
from gladjax.images.headers import lossy as lossy
from gladjax.images.headers import shape as shape
from gladjax.images.listing import ANOMALOUS as ANOMALOUS
from gladjax.images.listing import MASK_ENDINGS as MASK_ENDINGS
from gladjax.images.listing import MASKS as MASKS
from gladjax.images.listing import NORMAL as NORMAL
from gladjax.images.listing import below as below
from gladjax.images.listing import chosen as chosen
from gladjax.images.listing import is_image as is_image
from gladjax.images.listing import is_kind as is_kind
from gladjax.images.listing import named as named
from gladjax.images.pipes import arriving as arriving
from gladjax.images.pixels import MAX_PIXELS as MAX_PIXELS
from gladjax.images.pixels import SUFFIXES as SUFFIXES
from gladjax.images.pixels import decode as decode
from gladjax.images.pixels import levels as levels
from gladjax.images.pixels import pixel_limit as pixel_limit
from gladjax.images.pixels import read as read
from gladjax.images.pixels import resize as resize
from gladjax.images.pixels import write_png as write_png
from gladjax.images.streams import Checked as Checked
from gladjax.images.streams import Lazy as Lazy
from gladjax.images.streams import check as check
from gladjax.images.streams import outcomes as outcomes
from gladjax.images.streams import place as place
from gladjax.images.streams import prefetch as prefetch
from gladjax.images.survey import DARKER as DARKER
from gladjax.images.survey import Facts as Facts
from gladjax.images.survey import Learnt as Learnt
from gladjax.images.survey import copies as copies
from gladjax.images.survey import facts as facts
from gladjax.images.survey import from_notes as from_notes
from gladjax.images.survey import joined as joined
from gladjax.images.survey import learnt as learnt
from gladjax.images.survey import observe as observe
from gladjax.images.survey import peak as peak
from gladjax.images.survey import stretched as stretched
from gladjax.images.survey import to_notes as to_notes
from gladjax.images.survey import unlike as unlike

__all__ = [
    "ANOMALOUS",
    "DARKER",
    "MASKS",
    "MASK_ENDINGS",
    "MAX_PIXELS",
    "NORMAL",
    "SUFFIXES",
    "UNKNOWN",
    "Checked",
    "Depth",
    "Facts",
    "ImageError",
    "Lazy",
    "Learnt",
    "StrPath",
    "arriving",
    "below",
    "check",
    "chosen",
    "copies",
    "decode",
    "facts",
    "from_notes",
    "is_image",
    "is_kind",
    "joined",
    "learnt",
    "levels",
    "lossy",
    "named",
    "observe",
    "outcomes",
    "peak",
    "photograph",
    "pixel_limit",
    "place",
    "prefetch",
    "read",
    "resize",
    "saturated",
    "shape",
    "standard",
    "stretched",
    "to_notes",
    "unlike",
    "write_png",
]
