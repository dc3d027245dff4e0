"""Data sets behind one small interface: a name, a category, and records of images."""

from gladjax.datasets.base import Dataset as Dataset
from gladjax.datasets.base import DatasetError as DatasetError
from gladjax.datasets.base import Record as Record
from gladjax.datasets.elpv import elpv as elpv
from gladjax.datasets.folders import Names as Names
from gladjax.datasets.folders import folder as folder
from gladjax.datasets.layouts import btad as btad
from gladjax.datasets.layouts import mpdd as mpdd
from gladjax.datasets.layouts import mvtec_ad2 as mvtec_ad2
from gladjax.datasets.layouts import mvtec_loco as mvtec_loco
from gladjax.datasets.mvtec import mvtec as mvtec
from gladjax.datasets.reading import copies as copies
from gladjax.datasets.reading import reader as reader
from gladjax.datasets.registry import LOADERS as LOADERS
from gladjax.datasets.registry import load as load
from gladjax.datasets.surfaces import dagm as dagm
from gladjax.datasets.surfaces import kolektor_sdd as kolektor_sdd
from gladjax.datasets.surfaces import kolektor_sdd2 as kolektor_sdd2
from gladjax.datasets.surfaces import magnetic_tile as magnetic_tile
from gladjax.datasets.synthetic import draw as draw
from gladjax.datasets.synthetic import write_synthetic as write_synthetic
from gladjax.datasets.tables import listed as listed
from gladjax.datasets.tables import visa as visa
from gladjax.datasets.truth import Truth as Truth
from gladjax.datasets.truth import masks as masks
from gladjax.datasets.truth import read_mask as read_mask
from gladjax.datasets.truth import readable as readable
from gladjax.datasets.truth import require as require

__all__ = [
    "LOADERS",
    "Dataset",
    "DatasetError",
    "Names",
    "Record",
    "Truth",
    "btad",
    "copies",
    "dagm",
    "draw",
    "elpv",
    "folder",
    "kolektor_sdd",
    "kolektor_sdd2",
    "listed",
    "load",
    "magnetic_tile",
    "masks",
    "mpdd",
    "mvtec",
    "mvtec_ad2",
    "mvtec_loco",
    "read_mask",
    "readable",
    "reader",
    "require",
    "visa",
    "write_synthetic",
]
