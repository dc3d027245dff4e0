"""The other systems of the paper's tables, on the same feature maps.

Each module has ``fit(key, features, *, valid=None, ...) -> model`` and
``score(model, features) -> (maps, scores)``: maps ``(n, H, W)`` at the size of the
image, scores ``(n,)``, higher is more anomalous. ``draem`` is trained on images instead
of features.
"""

from gladjax.baselines import cflow as cflow
from gladjax.baselines import csflow as csflow
from gladjax.baselines import draem as draem
from gladjax.baselines import mahaad as mahaad
from gladjax.baselines import padim as padim
from gladjax.baselines import patchcore as patchcore
from gladjax.baselines import spade as spade

__all__ = ["cflow", "csflow", "draem", "mahaad", "padim", "patchcore", "spade"]
