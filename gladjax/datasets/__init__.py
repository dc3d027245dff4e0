"""Data sets behind one small interface: a name, a category, and records of images."""

from gladjax.datasets.base import Dataset as Dataset
from gladjax.datasets.base import DatasetError as DatasetError
from gladjax.datasets.base import Record as Record
from gladjax.datasets.base import read_mask as read_mask
from gladjax.datasets.base import readable as readable
from gladjax.datasets.elpv import elpv as elpv
from gladjax.datasets.mvtec import mvtec as mvtec

__all__ = [
    "Dataset",
    "DatasetError",
    "Record",
    "elpv",
    "mvtec",
    "read_mask",
    "readable",
]
