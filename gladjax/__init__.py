"""GLAD, a global-to-local anomaly detector, in JAX.

Every public module is one idea of the paper; see the README for how they compose.
Modules are imported when they are first used.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gladjax import align as align
    from gladjax import assign as assign
    from gladjax import backbone as backbone
    from gladjax import cache as cache
    from gladjax import calibrate as calibrate
    from gladjax import covariance as covariance
    from gladjax import datasets as datasets
    from gladjax import detector as detector
    from gladjax import devices as devices
    from gladjax import em as em
    from gladjax import estimation as estimation
    from gladjax import export as export
    from gladjax import features as features
    from gladjax import files as files
    from gladjax import images as images
    from gladjax import io as io
    from gladjax import iteration as iteration
    from gladjax import kmle as kmle
    from gladjax import masks as masks
    from gladjax import metrics as metrics
    from gladjax import mixture as mixture
    from gladjax import neighbourhoods as neighbourhoods
    from gladjax import online as online
    from gladjax import outputs as outputs
    from gladjax import plots as plots
    from gladjax import pytree as pytree
    from gladjax import routing as routing
    from gladjax import samples as samples
    from gladjax import scoring as scoring
    from gladjax import seeding as seeding
    from gladjax import sharding as sharding
    from gladjax import staged as staged
    from gladjax import steps as steps
    from gladjax import truncation as truncation
    from gladjax import weights as weights

__version__ = "0.1.0"

__all__ = [
    "align",
    "assign",
    "backbone",
    "cache",
    "calibrate",
    "covariance",
    "datasets",
    "detector",
    "devices",
    "em",
    "estimation",
    "export",
    "features",
    "files",
    "images",
    "io",
    "iteration",
    "kmle",
    "masks",
    "metrics",
    "mixture",
    "neighbourhoods",
    "online",
    "outputs",
    "plots",
    "pytree",
    "routing",
    "samples",
    "scoring",
    "seeding",
    "sharding",
    "staged",
    "steps",
    "truncation",
    "weights",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'gladjax' has no attribute {name!r}")
    return importlib.import_module(f"gladjax.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
