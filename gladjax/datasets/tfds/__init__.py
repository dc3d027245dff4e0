"""MVTec AD and DAGM as data sets of ``tensorflow-datasets``, without TensorFlow.

Needs the extra ``tfds``; nothing of it is imported before a function here is called.
"""

from gladjax.datasets.tfds.builders import register as register
from gladjax.datasets.tfds.source import Examples as Examples
from gladjax.datasets.tfds.source import examples as examples
from gladjax.datasets.tfds.source import prepare as prepare

__all__ = ["Examples", "examples", "prepare", "register"]
