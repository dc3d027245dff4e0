"""The paper's numbers: laws that the printed means must obey, and spot checks."""

import json
import os
import pathlib

import pytest

from gladjax.experiments import paper

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
TABLES = paper._tables()
OBJECTS = tuple(c for c in TABLES["categories"] if c not in TEXTURES)
GROUPS = {"textures": TEXTURES, "objects": OBJECTS, "all": TEXTURES + OBJECTS}


def test_spot_checks():
    assert paper.glad_auroc("transistor") == 0.996
    assert paper.glad_auroc("screw", backbone="resnet18") == 0.9
    assert paper.glad_auroc("all") == 0.991
    assert paper.glad_auroc("hazelnut") is None
    assert paper.image_auroc("padim", "zipper") == 0.909
    assert paper.image_auroc("padim", "all", backbone="efficientnet") == 0.979
    assert paper.image_auroc("csflow", "carpet") == 0.99
    assert paper.pixel_auroc("glad", "screw") == 0.999
    assert paper.dagm_auroc("glad") == 0.98
    assert paper.randomised_auroc("mahaad", "random") == 0.738
    assert paper.cost("glad") == (3.04, 0.61)
    assert len(paper.randomised_categories()) == 7


@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        ("mahaad", "efficientnet"),
        ("cflow", "resnet18"),
        ("cflow", "wide_resnet50_2"),
        ("glad", "resnet18"),
        ("draem", "own"),
        ("csflow", "own"),
    ],
)
def test_printed_image_means_are_the_means(method, backbone):
    for group, names in GROUPS.items():
        values = [paper.image_auroc(method, name, backbone=backbone) for name in names]
        mean = paper.image_auroc(method, group, backbone=backbone)
        # Half a unit of the mean's last digit, and one more for the paper's rounding.
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.0011)


@pytest.mark.parametrize("method", ["glad", "padim", "cflow", "draem"])
def test_printed_pixel_means_are_the_means(method):
    for group, names in GROUPS.items():
        values = [paper.pixel_auroc(method, name) for name in names]
        mean = paper.pixel_auroc(method, group)
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.0021)


def test_ablation_ends_with_the_full_method():
    rows = paper.ablation()
    assert len(rows) == 9
    full = rows[-1]
    assert full.layers == (1, 2, 3)
    assert full.mixture == "kmle"
    assert full.local_weights
    assert full.oas
    assert full.auroc == paper.glad_auroc("all")
    assert (full.memory_gb, full.seconds_per_image) == paper.cost("glad")
    assert all(0.9 < row.auroc <= 1 for row in rows)


def test_what_the_paper_lacks_is_none_or_refused():
    assert paper.glad_auroc("mono") is None
    assert paper.image_auroc("padim", "carpet", backbone="efficientnet") is None
    with pytest.raises(ValueError, match="no method 'spade'"):
        paper.image_auroc("spade", "carpet")
    with pytest.raises(ValueError, match="no backbone 'vgg'"):
        paper.glad_auroc("carpet", backbone="vgg")
    for function in (paper.dagm_auroc, paper.cost):
        with pytest.raises(ValueError, match="no method 'mahaad'"):
            function("mahaad")


def test_every_number_is_that_of_the_source():
    path = pathlib.Path(__file__).parents[2] / "shared" / "paper" / "tables.json"
    path = pathlib.Path(os.environ.get("GLADJAX_PAPER_TABLES", path))
    if not path.is_file():
        pytest.skip("no table of the paper's numbers here (set GLADJAX_PAPER_TABLES)")
    source = json.loads(path.read_text())
    ours = {"cflow-ad": "cflow", "cs-flow": "csflow"}

    def fraction(value):
        return None if value is None else pytest.approx(value / 100)

    for key, row in source["table2_image_auroc"].items():
        method, _, backbone = key.partition("/")
        for category, value in row["categories"].items():
            found = paper.image_auroc(
                ours.get(method, method), category, backbone=backbone or None
            )
            assert found == fraction(value)
    for method, row in source["table6_pixel_auroc"].items():
        for category, value in row["categories"].items():
            assert paper.pixel_auroc(ours.get(method, method), category) == fraction(
                value
            )
    for row, given in zip(paper.ablation(), source["table1_ablation"], strict=True):
        assert row.auroc == fraction(given["auroc"])
        assert row.seconds_per_image == given["seconds_per_image"]
