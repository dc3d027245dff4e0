"""Every table of the paper end to end, on small synthetic categories."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import PIL.Image
import pytest
from tiny import network

from gladjax import backbone, datasets, detector, images, metrics
from gladjax.datasets import tfds
from gladjax.experiments import (
    ablation,
    augment,
    comparison,
    contamination,
    cost,
    dagm,
    few_images,
    figures,
    held_out,
    locality,
    mvtec,
    neighbourhoods,
    num_components,
    prepared,
    quantile,
    randomised,
    rows,
    sources,
    stages,
)
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


def test_deep_images_are_read_as_those_of_eight_bits(root, tmp_path):
    """In files of 16 bits, of which 12 count."""
    plain, deep = root / "plate", tmp_path / "data" / "plate"
    shutil.copytree(plain, deep)
    for path in (*deep.glob("train/*/*.png"), *deep.glob("test/*/*.png")):
        array = np.array(PIL.Image.open(path))[..., 1]
        array[0, 0] = 255
        PIL.Image.fromarray(np.uint16(array * (4095 / 255))).save(path)
    dataset = datasets.mvtec(deep.parent, "plate")
    first = dataset.test[0].image
    assert images.read(first).max() < 17
    assert datasets.reader(dataset)(first).max() == pytest.approx(255, abs=0.1)
    settings = detector.Settings(motion="translation")
    source = sources.extract(tmp_path, dataset, network(), settings=settings)
    assert source.blank.reference.max() > 100
    array = datasets.reader(dataset)(first)
    expected = detector.features(
        source.blank, detector.align_image(source.blank, array)
    )
    for name, value in expected.items():
        np.testing.assert_allclose(source.test[name][0], value, atol=1e-4)


def test_copies_in_a_data_set_are_named(root, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(root / "plate", data / "plate")
    (train,) = data.glob("plate/train/good/000.png")
    PIL.Image.open(train).save(train.with_name("twice.bmp"))
    shutil.copy(train, data / "plate" / "test" / "good" / "seen.png")
    for module in (mvtec, locality):
        run(module, data, tmp_path / module.__name__)
        err = capsys.readouterr().err
        assert "plate: warning: images that are copies of others, 1: " in err
        assert f"twice.bmp is {train}" in err
        assert "warning: images that are among those for training, 1: " in err
        assert f"seen.png is {train}" in err
    assert datasets.copies(datasets.mvtec(root, "plate")) == []


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
    monkeypatch.setattr(sources._Reader, "piece", refuse)
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


def test_all_methods_are_compared_on_the_same_features(root, tmp_path, monkeypatch):
    small = partial(detector.Settings, num_components=4, max_steps=2)
    methods = ["glad", "glad, default", "mahaad", "patchcore, 10 %"]
    monkeypatch.setattr(comparison, "Settings", small)
    more = ["--methods", *methods, "--seeds", "0", "1"]
    records = run(comparison, root, tmp_path, *more)
    seeds = {}
    for record in records:
        seeds.setdefault(record["method"], []).append(record["seed"])
        assert 0 <= record["image_auroc"] <= 1
        assert record["model_bytes"] > 0
    assert seeds == {
        "glad": [0, 1],
        "glad, default": [0, 1],
        "mahaad": [0],
        "patchcore, 10 %": [0, 1],
    }
    chosen = {record["method"]: record["settings"] for record in records}
    assert chosen["glad"]["neighbourhood"] == 1
    assert chosen["glad, default"]["neighbourhood"] == 3
    assert chosen["glad, default"]["num_components"] == 4
    assert chosen["patchcore, 10 %"] == {"coreset": 0.1}
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
    more = ["--methods", "glad, not aligned", "mahaad", "--seeds", "1"]
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


def test_dagm_without_data_has_the_paper_s_figures(tmp_path):
    dagm.main(["--output", str(tmp_path)])
    table = (tmp_path / "table.md").read_text()
    assert table.count("not run here") == 10 * len(dagm.METHODS)
    assert "98.00" in table


def test_dagm_runs_on_its_layout(tmp_path):
    for part, names in (("Train", "abcdef"), ("Test", "ghi")):
        folder = tmp_path / "data" / "Class1" / part
        (folder / "Label").mkdir(parents=True)
        for number, name in enumerate(names):
            bad = part == "Test" and name != "g"
            kind = "spot" if bad else "good"
            image, mask = datasets.draw("texture", kind=kind, number=number, size=32)
            images.write_png(folder / f"{name}.png", image)
            if bad:
                shown = np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2)
                images.write_png(folder / "Label" / f"{name}_label.png", shown)
    arguments = ["--data-root", tmp_path / "data", "--output", tmp_path / "out"]
    dagm.main([str(a) for a in [*arguments, *SMALL, "--methods", "glad"]])
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["num_test"] == 3
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("not run here") == 9 * len(dagm.METHODS)
    assert f"{100 * record['image_auroc']:.2f}" in table


def test_cost_is_measured_and_random_weights_have_no_accuracy(
    root, tmp_path, monkeypatch
):
    more = ["--random-weights", "--num-train", "4", "--methods", "glad"]
    dataset = cost.few(datasets.mvtec(root, "plate"), 4)
    assert len(dataset.train) == 4
    monkeypatch.setattr(cost, "network", lambda *_: network())
    (record,) = run(cost, root, tmp_path, *more)
    assert record["image_auroc"] is None
    assert record["model_bytes"] > 0
    table = (tmp_path / "table.md").read_text()
    assert "3.04" in table
    assert "not run here" in table


def test_the_figures_are_drawn(root, tmp_path):
    (record,) = run(figures, root, tmp_path, "--examples", "1")
    assert 0 < record["share_active"]["fine"] <= 1
    falling = record["global_weights"]["fine"]
    assert falling == sorted(falling, reverse=True)
    assert sum(falling) == pytest.approx(1, abs=1e-5)
    folder = tmp_path / "plate"
    for name in ("sparsity.svg", "decay.svg"):
        assert (folder / name).read_text().startswith("<svg")
    for name in ("weights-fine.png", "weights-coarse.png"):
        assert images.read(folder / name).shape[0] > 100
    kinds = {path.name.split("-")[0] for path in (folder / "heat_maps").iterdir()}
    assert kinds == {"good", "missing", "scratch", "spot"}


def test_covariances_are_degenerate_from_the_first_component_of_few_samples():
    log_weights = np.log(np.array([0.2, 0.5, 0.3]))
    mixture = type("M", (), {"log_weights": log_weights, "means": np.zeros((3, 4))})
    layer = stages.FittedLayer(mixture, None, None, {"num_samples": 16})
    assert figures.degenerate(layer) == 1
    layer = layer._replace(info={"num_samples": 100})
    assert figures.degenerate(layer) == 3


def test_the_quantile_is_chosen_without_test_labels(root, tmp_path):
    records = run(quantile, root, tmp_path)
    assert [record["method"] for record in records] == ["development", "test"]
    assert len(records[0]["auroc"]) == len(quantile.QUANTILES)
    other = [1 - value for value in records[1]["auroc"]]
    swapped = [records[0], {**records[1], "auroc": other}]
    assert quantile.choose(records) == quantile.choose(swapped)
    best = np.max(records[0]["auroc"])
    at = quantile.QUANTILES.index(quantile.choose(records))
    assert records[0]["auroc"][at] == pytest.approx(best)
    assert "a study" in (tmp_path / "table.md").read_text()


def test_the_number_of_components_is_chosen_on_pasted_defects(root, tmp_path):
    more = ["--numbers", "2", "6", "--images", "0", "99"]
    records = run(num_components, root, tmp_path, *more)
    assert [set(r["num_components"].values()) for r in records] == [{2}, {6}]
    for record in records:
        assert set(record["pasted"]) == set(held_out.SHOWN)
        assert 0 <= record["image_auroc"] <= 1
        assert np.isfinite(record["held_out"])
    found = {r["settings"]["num_components"]: num_components.pasted(r) for r in records}
    assert found[num_components.choose(records)] == max(found.values())
    likely = {r["settings"]["num_components"]: r["held_out"] for r in records}
    by = num_components.LIKELY
    assert likely[num_components.choose(records, by=by)] == max(likely.values())
    # Its real defects are the test images; neither looks at them.
    dataset = datasets.mvtec(root, "plate")
    learn, _ = held_out.split(len(dataset.train), seed=0)
    settings = detector.Settings(num_components=6, max_steps=3)
    source = sources.extract(tmp_path / "own", dataset, network(), settings=settings)
    part = sources.subset(source, learn, test="test", name="part")
    own = rows.glad(part, dataset, Recipe(settings)).record
    assert records[1]["image_auroc"] == pytest.approx(own["image_auroc"], abs=1e-6)
    swapped = [{**r, "image_auroc": 1 - r["image_auroc"]} for r in records]
    assert num_components.notes(records) == num_components.notes(swapped)
    # A number that only an easy category was fitted with is not compared.
    easy = {
        **records[0],
        "category": "easy",
        "pasted": dict.fromkeys(held_out.SHOWN, 1.0),
    }
    alone = {**easy, "settings": {**easy["settings"], "num_components": 99}}
    both = [*records, *({**r, "category": "easy"} for r in records)]
    assert num_components.choose([*both, alone]) == num_components.choose(records)
    text = (tmp_path / "table.md").read_text()
    assert "| mean " in text
    assert "a study" in text


def test_development_data_are_held_out_training_images(root):
    dataset = datasets.mvtec(root, "plate")
    made, prepare = held_out.pasted(dataset, seed=2)
    known = {record.image for record in dataset.train}
    assert {record.image for record in made.records} <= known
    learnt = {record.image for record in made.train}
    assert not learnt & {record.image for record in made.test}
    labels = [record.label for record in made.test]
    assert sum(labels) == len(labels) - sum(labels)
    image = images.read(made.test[-1].image)
    np.testing.assert_array_equal(prepare("test", 0, image), image)
    changed = prepare("test", len(labels) - 1, image)
    plain = np.asarray(backbone.resize(np.asarray(image), size=(256, 256)))
    share = np.mean(np.abs(changed - plain).max(axis=-1) > 1)
    assert 0 < share < 0.02


@pytest.mark.parametrize("name", held_out.RECIPES)
def test_pasted_defects_are_small_and_different(rng, name):
    base, far = (rng.uniform(100, 150, (256, 256, 3)) for _ in range(2))
    shares = []
    for seed in range(20):
        changed = held_out.RECIPES[name](np.random.default_rng(seed), base, far)
        assert changed.shape == base.shape
        assert changed.min() >= 0
        assert changed.max() <= 255
        shares.append(np.mean(np.abs(changed - base).max(axis=-1) > 1))
    assert min(shares) > 0
    assert max(shares) < 0.08
    assert len(set(shares)) > 15


def test_scales_are_compared_on_pasted_and_on_real_defects(root, tmp_path):
    records = run(neighbourhoods, root, tmp_path)
    rules = neighbourhoods.rules(network())
    assert [record["method"] for record in records] == list(rules)
    assert records[1]["settings"]["layers"] == ["fine", "coarse", "coarse@3"]
    for record in records:
        assert set(record["pasted"]) == set(held_out.SHOWN)
        assert 0 <= min(record["pasted"].values()) <= 1
    assert neighbourhoods.choose(records) in rules
    text = (tmp_path / "table.md").read_text()
    assert "Chosen on pasted defects" in text
    # Of one category nothing can be said of others.
    assert neighbourhoods.agreement(records) == {}


def test_recipes_are_judged_by_the_real_defects_of_other_categories():
    def row(category, rule, real, cut):
        pasted = dict.fromkeys(held_out.SHOWN, 1 - cut) | {"cut": cut}
        return {"category": category, "method": rule, "image_auroc": real,
                "pasted": pasted}  # fmt: skip

    records = [
        row(category, rule, real, real)
        for category in ("a", "b", "c")
        for rule, real in (("x", 0.7), ("y", 0.9), ("z", 0.8))
    ]
    found = neighbourhoods.agreement(records)
    assert found["cut"] == pytest.approx(1)
    assert found["spot"] == pytest.approx(-1)


def test_the_prior_is_chosen_by_held_out_likelihood(root, tmp_path):
    more = ["--numbers", "5", "0", "--strengths", "4", "--radii", "1"]
    records = run(locality, root, tmp_path, *more)
    assert len(records) == 2 * 3
    assert {record["settings"]["images"] for record in records} == {5, 8}
    best = locality.chosen(records)
    for at, record in best.items():
        rivals = [
            other["held_out"]
            for other in records
            if other["method"] in (locality.PRIOR, locality.LOCAL)
            if (other["category"], other["settings"]["images"], other["seed"]) == at
        ]
        assert len(rivals) == 2
        assert record["held_out"] == max(rivals)
    swapped = [{**record, "image_auroc": 0.0} for record in records]
    assert locality.chosen(swapped).keys() == best.keys()
    assert "points" in (tmp_path / "table.md").read_text()


def test_prepared_records_are_read_as_the_folder_they_came_from(
    root, tmp_path, monkeypatch
):
    folder = datasets.mvtec(root, "plate")

    def examples(name, split, *, data_dir):
        assert (name, data_dir) == ("mvtec_ad/plate", tmp_path)
        records = getattr(folder, split)
        return tfds.Examples(
            images=[images.read(record.image) for record in records],
            masks=[datasets.read_mask(record) for record in records],
            labels=tuple(record.label for record in records),
            kinds=tuple(record.kind for record in records),
        )

    monkeypatch.setattr(tfds, "examples", examples)
    options = {"data_dir": tmp_path, "folder": tmp_path / "written"}
    for _ in range(2):  # The second time from what was written.
        found = prepared.dataset("mvtec", "plate", **options)
        assert len(found.records) == len(folder.records)
        for one, other in zip(found.records, folder.records, strict=True):
            assert (one.label, one.kind, one.split) == (
                other.label,
                other.kind,
                other.split,
            )
            np.testing.assert_array_equal(
                images.read(one.image), images.read(other.image)
            )
            np.testing.assert_array_equal(
                datasets.read_mask(one), datasets.read_mask(other)
            )
        monkeypatch.setattr(tfds, "examples", None)
    with pytest.raises(datasets.DatasetError, match="visa"):
        prepared.dataset("visa", "plate", **options)


def test_experiments_read_prepared_records(root, tmp_path, monkeypatch):
    asked = []

    def stand_in(data, category, *, data_dir, folder):
        asked.append((data, category, data_dir, folder.name))
        return datasets.mvtec(root, category)

    monkeypatch.setattr(prepared, "dataset", stand_in)
    run(figures, root, tmp_path, "--tfds")
    assert asked == [("mvtec", "plate", root, "tfds")]


@pytest.fixture(scope="module")
def blatant(tmp_path_factory):
    """A category of noise; its defects are white squares."""
    folder = tmp_path_factory.mktemp("blatant")
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 22), ("test/good", 4), ("test/square", 5)):
        for i in range(count):
            image = np.clip(rng.normal(128, 10, (40, 40, 3)), 0, 255)
            if place == "test/square":
                image[10:30, 10:30] = 255
            path = folder / "plate" / place / f"{i:02}.png"
            images.write_png(path, image.astype(np.uint8))
    return folder


def test_no_training_defect_is_among_the_test_images(blatant):
    dataset = datasets.mvtec(blatant, "plate")
    labels = np.array([r.label for r in (*dataset.train, *dataset.test)])
    few, many = (
        contamination.draw(dataset, 20, share, seed=1) for share in (0.05, 0.2)
    )
    for drawn, count in ((few, 1), (many, 4)):
        assert len(np.unique(drawn.learn)) == len(drawn.learn) == 20
        assert not set(drawn.learn) & set(drawn.test)
        np.testing.assert_array_equal(labels[drawn.learn] == 1, drawn.bad)
        assert drawn.bad.sum() == count
        assert len(drawn.test) == len(dataset.test) - count
    assert set(few.learn[few.bad]) < set(many.learn[many.bad])
    with pytest.raises(ValueError, match=r"plate: 0\.5 of 20"):
        contamination.draw(dataset, 20, 0.5, seed=1)


def test_blatant_defects_among_the_good_are_named_and_cost_nothing_then(
    blatant, tmp_path, monkeypatch
):
    # One layer needs half the programs.
    net = dataclasses.replace(network(), layers=("fine",), dims=network().dims[:1])
    monkeypatch.setattr(backbone, "load", lambda *_, **__: net)
    more = ["--num-train", "22", "--shares", "0.1", "--max-samples", "300"]
    more += ["--neighbourhood", "1", "--margin", "0.0625"]
    (record,) = run(contamination, blatant, tmp_path, *more)
    assert record["num_bad"] == record["bad_named"] == record["bad_among_ten"] == 2
    assert record["good_named"] == 0
    assert len(record["named"]) == 2
    assert record["cleaned"] == record["good"]
    assert record["good"]["sensitivity"] == 1
    assert record["mixed"]["sensitivity"] < 1
    table = (tmp_path / "table.md").read_text()
    for state in contamination.STATES:
        assert f"sensitivity at 0.05, {state}" in table
    assert "Of 2 defects 2 are named" in table

    # The fit from features at hand is that of the detector.
    dataset = datasets.mvtec(blatant, "plate")
    settings = detector.Settings(
        num_components=6, max_steps=3, max_samples=300, neighbourhood=1, margin=0.0625
    )
    cache = tmp_path / "cache"
    source = sources.extract(cache, dataset, net, settings=settings)
    drawn = contamination.draw(dataset, 22, 0.1, seed=0)
    records = (*dataset.train, *dataset.test)
    found = contamination.fit(source, drawn.learn, settings, seed=0)
    _, info = detector.fit_info(
        jax.random.key(0),
        net,
        [images.read(records[i].image) for i in drawn.learn],
        settings=settings,
        folds=detector.FOLDS,
    )
    np.testing.assert_allclose(found.left_out, info.left_out, rtol=1e-4)

    monkeypatch.setattr(contamination, "fit", None)
    assert run(contamination, blatant, tmp_path, *more) == [record]


def test_copies_stand_beside_images_as_they_are(blatant, tmp_path, monkeypatch):
    net = dataclasses.replace(network(), layers=("fine",), dims=network().dims[:1])
    monkeypatch.setattr(backbone, "load", lambda *_, **__: net)
    more = ["--numbers", "6", "99", "--max-samples", "300", "--neighbourhood", "1"]
    records = run(augment, blatant, tmp_path, *more)  # There are no 99.
    kinds = [record["settings"]["augment"] for record in records]
    assert kinds == ["auto", "", "flip", "dihedral"]
    (line,) = augment.table(records)[1:]
    assert line[:3] == ["plate", "6", "0"]
    shown = [f"{100 * record['image_auroc']:.2f}" for record in records]
    assert line[3:7] == [*shown[1:], shown[0]]
    auto, *others = records
    assert line[7] == f"{auto['kept']:.2f}"
    asked = auto["likelier"] is not None
    assert asked == (others[0]["kept"] < 0.5)
    assert line[8] == (f"{auto['likelier']:.2f}" if asked else "-")
    taken = others[2] if asked and auto["likelier"] >= 0.9 else others[0]
    assert auto["image_auroc"] == taken["image_auroc"]
    dataset = datasets.mvtec(blatant, "plate")
    order = np.sort(np.random.default_rng(0).permutation(22)[:6])
    learn = [images.read(dataset.train[i].image) for i in order]
    settings = detector.Settings(
        **{
            name: value
            for name, value in records[2]["settings"].items()
            if name != "images"
        }
    )
    fitted, _ = detector.fit_info(
        jax.random.key(0), net, learn, settings=settings, folds=detector.FOLDS
    )
    scores = [detector.score(fitted, images.read(r.image)) for r in dataset.test]
    labels = np.array([r.label for r in dataset.test])
    auroc = metrics.auroc(labels, np.array([one.score for one in scores]))
    assert records[2]["image_auroc"] == pytest.approx(auroc)


def test_local_and_global_weights_stand_beside_the_choice(
    blatant, tmp_path, monkeypatch
):
    """All three are those of detectors with these settings."""
    net = dataclasses.replace(network(), layers=("fine",), dims=network().dims[:1])
    monkeypatch.setattr(backbone, "load", lambda *_, **__: net)
    more = ["--numbers", "8", "99", "--max-samples", "300", "--neighbourhood", "1"]
    (record,) = run(few_images, blatant, tmp_path, *more)  # There are no 99.
    assert record["settings"]["images"] == 8
    assert record["chosen"] == ("local" if record["kept"] >= 0.5 else "global")
    table = (tmp_path / "table.md").read_text()
    assert f"| {record['chosen']} " in table
    assert "The choice gives away" in table
    dataset = datasets.mvtec(blatant, "plate")
    order = np.sort(np.random.default_rng(0).permutation(22)[:8])
    learn = [images.read(dataset.train[i].image) for i in order]
    for name in few_images.BOTH:
        fitted = detector.fit(
            jax.random.key(0),
            net,
            learn,
            settings=detector.Settings(
                num_components=6,
                max_steps=3,
                max_samples=300,
                neighbourhood=1,
                local=name == "local",
            ),
        )
        scores = [detector.score(fitted, images.read(r.image)) for r in dataset.test]
        labels = np.array([r.label for r in dataset.test])
        auroc = metrics.auroc(labels, np.array([one.score for one in scores]))
        assert record[name]["image_auroc"] == pytest.approx(auroc)
    worse = {**record, "local": {"image_auroc": 0.5}, "global": {"image_auroc": 0.75}}
    assert few_images.loss({**worse, "chosen": "local"}) == 0.25
    assert few_images.loss({**worse, "chosen": "global"}) == 0
