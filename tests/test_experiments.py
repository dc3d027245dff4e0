"""The experiments end to end on a small synthetic category."""

import json
import shutil

import numpy as np
import pytest

from gladjax import datasets
from gladjax.experiments import aligned, elpv, mvtec, runner

TIMES = {"fit_seconds", "fit_stages", "seconds_per_image"}
SMALL = ["--num-components", "6", "--max-steps", "3"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A synthetic category in the MVTec layout."""
    folder = tmp_path_factory.mktemp("data")
    datasets.write_synthetic(
        folder, category="plate", num_train=8, num_good=3, num_bad=1, size=64
    )
    return folder


def run(root, output, *more):
    """Runs the MVTec experiment and returns its records."""
    arguments = ["--data-root", root, "--categories", "plate", "--output", output]
    mvtec.main([str(a) for a in arguments] + [*SMALL, *more])
    return json.loads((output / "results.json").read_text())


def untimed(records):
    """Returns records without what a clock measured."""
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def test_same_seed_gives_the_same_results_and_everything_is_written(
    root, tmp_path, capsys
):
    first = run(root, tmp_path / "a", "--heat-maps")
    second = run(root, tmp_path / "b")
    assert untimed(first) == untimed(second)
    (record,) = first
    layers = {"layer2", "layer3", "layer3@3"}
    assert set(record["num_components"]) == layers
    assert set(record["seconds_per_image"]) == {"read", "align", "features", "score"}
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        assert 0 <= record[name] <= 1
    assert record["image_auroc"] > 0.7
    assert record["settings"]["num_components"] == 6
    pictures = list((tmp_path / "a" / "heat_maps").rglob("*.png"))
    assert len(pictures) == record["num_test"]
    table = (tmp_path / "a" / "table.md").read_text()
    assert "efficientnet_lite0" in table
    assert "wide_resnet50_2" in table
    assert table.strip() in capsys.readouterr().out


def test_a_set_without_masks_has_no_pixel_figures_or_is_refused(root, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(root / "plate", bare / "plate")
    shutil.rmtree(bare / "plate" / "ground_truth")
    with pytest.raises(SystemExit, match="its mask is missing"):
        run(bare, tmp_path / "out", "--require-masks")
    run(bare, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "results.json").read_text())[0]
    assert record["pixel_auroc"] is record["aupro"] is None
    assert 0 <= record["image_auroc"] <= 1
    assert "so no pixel figures" in capsys.readouterr().err


def test_a_finished_row_is_not_run_again(root, tmp_path, monkeypatch):
    first = run(root, tmp_path)

    def refuse(*_args, **_kwargs):
        raise AssertionError("the row was run again")

    monkeypatch.setattr(runner, "glad", refuse)
    assert run(root, tmp_path) == first


def test_other_settings_are_another_row(root, tmp_path):
    first = run(root, tmp_path)
    both = run(root, tmp_path, "--radius", "0")
    assert len(both) == len(first) + 1
    assert both[0] == first[0]


def test_refusals_name_what_is_wrong(root, tmp_path):
    with pytest.raises(SystemExit, match="screw"):
        mvtec.main(["--data-root", str(root), "--categories", "screw", "--output", "x"])
    bad = root / "plate" / "train" / "good" / "broken.png"
    bad.write_bytes(b"no image")
    try:
        with pytest.raises(SystemExit, match=r"broken\.png"):
            run(root, tmp_path)
        assert not (tmp_path / "results.json").exists()
    finally:
        bad.unlink()


def test_the_table_has_mean_and_spread(root):
    row = {
        "category": "plate",
        "backbone": "b",
        "image_auroc": 0.9,
        "pixel_auroc": None,
        "aupro": None,
        "num_components": {"layer1": 2},
        "active_per_position": {"layer1": 1.5},
        "fit_seconds": 1.0,
        "seconds_per_image": {"read": 0.1},
    }
    text = runner.table(mvtec.summary([row, {**row, "image_auroc": 1.0}]))
    assert "95.00 ± 7.07" in text
    assert elpv.__doc__.startswith("GLAD on ELPV")


def test_heat_maps_stand_over_the_defect(root, tmp_path):
    from gladjax import backbone
    from gladjax.detector import Settings

    network = backbone.load("efficientnet_lite0")
    settings = Settings(num_components=6, max_steps=3)
    dataset = datasets.mvtec(root, "plate")
    _, _, result = runner.glad(dataset, network, seed=0, settings=settings)
    found = result.labels == 1
    masks = np.stack(result.masks)[found]
    inside = [
        heat[mask].mean() > np.median(heat)
        for heat, mask in zip(result.heat_maps[found], masks, strict=True)
    ]
    assert np.mean(inside) > 0.5


def test_aligned_and_not_stand_side_by_side(root, tmp_path):
    arguments = ["--data-root", root, "--categories", "plate", "--output", tmp_path]
    aligned.main([str(a) for a in arguments] + [*SMALL, "--motion", "translation"])
    plain, moved = json.loads((tmp_path / "results.json").read_text())
    assert (plain["settings"]["motion"], moved["settings"]["motion"]) == (
        "",
        "translation",
    )
    kinds = {r.kind for r in datasets.mvtec(root, "plate").test if r.label == 1}
    for record in (plain, moved):
        assert set(record["by_kind"]) == kinds
        # Every kind has as many images: the whole is the mean of the kinds.
        mean = np.mean(list(record["by_kind"].values()))
        assert record["image_auroc"] == pytest.approx(mean)
    assert "| plate" in (tmp_path / "table.md").read_text()
