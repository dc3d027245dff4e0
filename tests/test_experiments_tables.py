"""Every table of the paper end to end, on small synthetic categories."""

import json

import jax
import numpy as np
import pytest
from tiny import network

from gladjax import backbone, datasets, detector, images
from gladjax.experiments import ablation, comparison, randomised, rows, sources, stages
from gladjax.experiments.stages import Recipe

SMALL = ["--num-components", "6", "--max-steps", "3"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Every experiment loads a tiny backbone."""
    monkeypatch.setattr(backbone, "load", lambda *_, **__: network())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A synthetic category in the MVTec layout."""
    folder = tmp_path_factory.mktemp("data")
    datasets.write_synthetic(
        folder, category="plate", num_train=8, num_good=3, num_bad=1, size=48
    )
    return folder


def run(module, root, output, *more):
    """Runs an experiment and returns its records."""
    arguments = ["--data-root", root, "--categories", "plate", "--output", output]
    module.main([str(a) for a in [*arguments, *SMALL, *more]])
    return json.loads((output / "results.json").read_text())


def test_stages_give_what_the_detector_gives(root, tmp_path):
    dataset = datasets.mvtec(root, "plate")
    settings = detector.Settings(num_components=6, max_steps=3, max_samples=200)
    source = sources.extract(tmp_path, dataset, network(), settings=settings)
    result = rows.glad(source, dataset, Recipe(settings, seed=3))
    fitted = detector.fit(
        jax.random.key(3),
        network(),
        [images.read(record.image) for record in dataset.train],
        settings=settings,
    )
    expected = [
        detector.score(fitted, images.read(record.image), shape=(256, 256))
        for record in dataset.test
    ]
    np.testing.assert_allclose(
        result.evaluation.scores, [one.score for one in expected], rtol=1e-4
    )
    np.testing.assert_allclose(
        result.evaluation.heat_maps[-1], expected[-1].heat_map, rtol=1e-3, atol=1e-3
    )


def test_pieces_are_computed_once(root, tmp_path, monkeypatch):
    dataset = datasets.mvtec(root, "plate")
    settings = detector.Settings(num_components=4, max_steps=2)

    def both():
        source = sources.extract(tmp_path, dataset, network(), settings=settings)
        return rows.glad(source, dataset, Recipe(settings)).record

    first = both()

    def refuse(*_args, **_kwargs):
        raise AssertionError("a piece was computed again")

    for name in ("_mixture", "_weights", "log_maps"):
        monkeypatch.setattr(stages, name, refuse)
    monkeypatch.setattr(sources, "_extract", refuse)
    again = both()
    for name in ("image_auroc", "pixel_auroc", "model_bytes", "fit_seconds"):
        assert first[name] == again[name]


def test_the_ablation_has_a_row_per_variant_and_says_what_it_found(
    root, tmp_path, monkeypatch
):
    records = run(ablation, root, tmp_path)
    methods = {record["method"] for record in records}
    assert methods >= set(ablation.VARIANTS) - {"EM"}
    by_method = {record["method"]: record for record in records}
    full, everywhere = by_method["glad"], by_method["global weights"]
    assert full["model_bytes"] < everywhere["model_bytes"]
    assert by_method["layers 2+3"]["settings"]["layers"] == ["coarse"]
    found = json.loads((tmp_path / "findings.json").read_text())
    gain = 100 * (full["image_auroc"] - everywhere["image_auroc"])
    assert found[0]["ours"] == pytest.approx(gain)
    assert found[0]["paper"] == 2.1
    table = (tmp_path / "table.md").read_text()
    assert "no shrinkage" in table
    assert "wide_resnet50_2" in table
    assert (tmp_path / "table.csv").read_text().count("\n") == 8
    monkeypatch.setattr(rows, "glad", None)
    assert run(ablation, root, tmp_path) == records


def test_all_methods_are_compared_on_the_same_features(root, tmp_path):
    more = ["--methods", "glad", "mahaad", "padim", "patchcore", "--seeds", "0", "1"]
    records = run(comparison, root, tmp_path, *more, "--coreset", "0.1")
    seeds = {}
    for record in records:
        seeds.setdefault(record["method"], []).append(record["seed"])
        assert 0 <= record["image_auroc"] <= 1
        assert record["model_bytes"] > 0
    assert seeds == {
        "glad": [0, 1],
        "mahaad": [0],
        "padim": [0, 1],
        "patchcore": [0, 1],
    }
    table = (tmp_path / "table.md").read_text()
    assert "image AUROC (tiny)" in table
    assert "0 1" in table


def test_a_randomised_version_moves_images_and_masks(root, tmp_path):
    dataset = datasets.mvtec(root, "plate")
    prepare, masks = randomised.moved(dataset, 1)
    again, same = randomised.moved(dataset, 1)
    image = images.read(dataset.test[-1].image)
    np.testing.assert_array_equal(prepare("test", 3, image), again("test", 3, image))
    np.testing.assert_array_equal(masks, same)
    assert masks.shape == (len(dataset.test), 256, 256)
    assert masks[-1].any()
    more = ["--methods", "glad", "mahaad", "--seeds", "1"]
    records = run(randomised, root, tmp_path, *more)
    versions = [record["settings"].get("version", "") for record in records]
    assert sorted(versions) == ["", "", "randomised 1", "randomised 1"]
    table = (tmp_path / "table.md").read_text()
    assert "97.70" in table


def test_categories_of_the_paper_that_are_not_here_are_named(tmp_path):
    randomised.main(["--data-root", str(tmp_path), "--output", str(tmp_path / "out")])
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("not run here") == 7
    assert "screw" in table
