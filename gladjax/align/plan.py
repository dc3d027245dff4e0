"""Settings and report of a registration.

`Options` are the user's rarely changed numbers; a `Plan` is all that is known about a
registration before any pixel is, so that one compiled program serves equal plans.

Notation: level ``i`` has a pixel for every ``2^i``-th pixel of the image.

Differs from the reference in: (1) the scale of the error function falls over the whole
run and does not start again on finer levels; (2) after a search over all turns it stays
above the spread of the differences: products that lie at any angle are lit in many
ways, and a small scale would turn these differences into minima.

Reference: Briand, Facciolo, Sanchez. "Improvements of the Inverse Compositional
Algorithm for Parametric Motion Estimation". IPOL 8, 2018, section 2.
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from gladjax.align.pyramid import Scheme
from gladjax.align.robust import ErrorFunction

__all__ = ["DEFAULTS", "AlignInfo", "Options", "Plan"]

Shape = tuple[int, int]


class AlignInfo(NamedTuple):
    """What happened in a registration.

    Attributes:
      iterations: Steps over all levels.
      residual: Mean absolute difference of grey levels after alignment.
      residual_before: The same for the identity.
      overlap: Share of the counted pixels that fall inside the image.
      displacement: Mean distance, in pixels, by which the corners of the reference
        move, of the motion returned.
      success: False where the identity was returned instead of a motion.
      implausible: True where the motion found is extreme in itself (areas change by
        more than a factor of four, or the centre leaves the image), or outside the
        motions of the training images once `judge` has looked at it.
    """

    iterations: Int[Array, "*n"]
    residual: Float[Array, "*n"]
    residual_before: Float[Array, "*n"]
    overlap: Float[Array, "*n"]
    displacement: Float[Array, "*n"]
    success: Bool[Array, "*n"]
    implausible: Bool[Array, "*n"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a registration that rarely change.

    Attributes:
      max_steps: Most iterations on one level.
      tolerance: Movement of a corner, in pixels, that ends the finest level; coarser
        levels end at a fiftieth of their pixel.
      border: Pixels along the borders that do not count on the finest level; coarser
        levels halve it, down to 2.
      min_side: The coarsest level has at least this shorter side.
      max_points: Pixels that count per level, the strongest gradient of each cell;
        None for all.
      scale_start: Scale of the error function at first, in grey levels.
      scale_decay: Its factor per iteration.
      scale_end: Its least value.
      scale_spread: After a coarse search the scale is never below this multiple of the
        mean absolute difference.
      min_overlap: Least share of the reference that must fall inside the image.
      batch_size: Images that `register_batch` refines side by side.
      search_side: The coarse search halves the images until no side is longer.
      num_angles: Angles of the coarse search.
      max_shift: Its largest shift, as a fraction of the longer side.
      num_starts: Starts that are refined; the identity is one more.
      search_scale: Scale of the error function that compares the starts.
      tie: Starts whose error is larger by no more than this fraction and so many grey
        levels are tied.
      slide: After the coarse search, so many shifts of one pixel either way along the
        direction that the reference determines least are refined, too; 0 for none.
    """

    max_steps: int = 30
    tolerance: float = 1e-3
    border: int = 5
    min_side: int = 32
    max_points: int | None = 16384
    scale_start: float = 80.0
    scale_decay: float = 0.8
    scale_end: float = 5.0
    scale_spread: float = 5.0
    min_overlap: float = 0.4
    batch_size: int = 1
    search_side: int = 32
    num_angles: int = 72
    max_shift: float = 0.25
    num_starts: int = 8
    search_scale: float = 80.0
    tie: tuple[float, float] = (0.005, 0.4)
    slide: int = 4
    slide_levels: tuple[int, ...] = (1,)

    def border_at(self, level: int) -> int:
        """Pixels along the borders of a level that do not count."""
        return min(self.border, max(2, self.border >> level))


DEFAULTS = Options()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about a registration that is fixed before tracing."""

    motion: str
    error: ErrorFunction
    scheme: Scheme
    coarse: bool
    options: Options
    shapes: tuple[Shape, Shape]

    @property
    def num_levels(self) -> int:
        """How many levels there are."""
        side = min(*self.shapes[0], *self.shapes[1])
        return max(1, 1 + int(math.log2(max(1, side / self.options.min_side))))

    @property
    def search_level(self) -> int:
        """The level of the coarse search."""
        longest = max(*self.shapes[0], *self.shapes[1])
        halvings = max(0, math.ceil(math.log2(longest / self.options.search_side)))
        return min(halvings, self.num_levels - 1)

    @property
    def frame(self) -> tuple[tuple[float, float], float]:
        """Centre of the reference and unit of the motion, in pixels."""
        h, w = self.shapes[0]
        return ((w - 1) / 2, (h - 1) / 2), max(h, w) / 2

    @property
    def schedule(self) -> tuple[float, float, float]:
        """Factor of the scale per iteration, its least value, its least spread."""
        options = self.options
        spread = options.scale_spread if self.coarse else 0.0
        return options.scale_decay, options.scale_end, spread

    def level_shapes(self, i: int) -> tuple[Shape, Shape]:
        """Shapes of a level of the reference and of the image."""
        (h, w), (a, b) = self.shapes
        size = 2**i
        return (-(-h // size), -(-w // size)), (-(-a // size), -(-b // size))

    def frames(self, dtype: jnp.dtype, i: int) -> tuple[Array, Array]:
        """Changes from pixels of a level to units of the motion, and back."""
        (cx, cy), unit = self.frame
        density = 2.0**i
        to_unit = [[density, 0, -cx], [0, density, -cy], [0, 0, unit]]
        from_unit = [[unit, 0, cx], [0, unit, cy], [0, 0, density]]
        return (
            jnp.asarray(to_unit, dtype) / unit,
            jnp.asarray(from_unit, dtype) / density,
        )
