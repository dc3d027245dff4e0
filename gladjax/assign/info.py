"""What an assignment reports."""

from typing import NamedTuple

from jaxtyping import Array, Float

from gladjax.mixture import AnyArray


class AssignInfo(NamedTuple):
    """How an assignment came about.

    Attributes:
      margin: For each sample, the least bound (or cost) of any other component minus
        the cost of the winner: never negative, which certifies the label.
      survivors: Components left per sample after the first rows, mean.
      evaluated: Full costs per sample, mean.
      rank: Leading coordinates ``r``.
      stage: First rows ``r1``.
    """

    margin: Float[AnyArray, " n"]
    survivors: float | Float[Array, ""]
    evaluated: float | Float[Array, ""]
    rank: int
    stage: int
