"""A detector as one file that scores without this package: pixels to decision.

The program takes an 8-bit RGB image, ``(h, w, 3)``, resizes it as Pillow does, aligns
it, and gives

  * ``score``, float32: higher is more anomalous, NaN where nothing counts;
  * ``heat_map``, float32, ``(H, W)``: in the frame of the image, at the backbone's
    size, as `gladjax.streaming.score_files` gives it to ``gladjax score``;
  * ``p_value``, float32, where the detector is calibrated; NaN where the score is;
  * ``is_anomalous``, a boolean, where the calibration is enough for the rate; false
    where the score is NaN.

All weights are constants of the program, so it is one file. `stablehlo` is read by
``jax.export`` alone, on a CPU, GPU or TPU; `onnx` by any runtime of that format.

Notation: ``h w`` the image, ``H W`` the backbone's input.

Differs from the reference in: (1) images of more than 8 bits, and detectors that look
at images in tiles, are not taken.

Reference: StableHLO, https://openxla.org/stablehlo; ONNX, https://onnx.ai.
"""

from gladjax.export.formats import PLATFORMS as PLATFORMS
from gladjax.export.formats import onnx as onnx
from gladjax.export.formats import stablehlo as stablehlo

__all__ = ["PLATFORMS", "onnx", "stablehlo"]
