"""Every published layout on a tiny fake tree, tables, folders and the synthetic set."""

import collections
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest

from gladjax import datasets, images

MASK = np.zeros((4, 6), np.uint8)
MASK[1, 2:4] = 255


def write(root, *names, mask=None):
    """Writes tiny images, grey or as given."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.full((4, 6), 90, np.uint8) if mask is None else mask
        PIL.Image.fromarray(array).save(path)


def mvtec_like(root, category, *, good="good"):
    write(root, *(f"{category}/train/{good}/{i}.png" for i in range(3)))
    write(root, f"{category}/test/{good}/0.png")


def make_mvtec(root):
    mvtec_like(root, "screw")
    write(root, "screw/test/thread/0.png")
    write(root, "screw/ground_truth/thread/0_mask.png", mask=MASK)
    return "screw", (3, 1, 1), {"thread"}


def make_mpdd(root):
    mvtec_like(root, "tubes")
    write(root, "tubes/test/anomalous/0.png")
    write(root, "tubes/ground_truth/anomalous/0_mask.png", mask=MASK)
    return "tubes", (3, 1, 1), {"anomalous"}


def make_btad(root):
    mvtec_like(root, "01", good="ok")
    write(root, "01/test/ko/7.bmp", "01/test/ko/8.bmp")
    write(root, "01/ground_truth/ko/7.png", "01/ground_truth/ko/8.bmp", mask=MASK)
    return "01", (3, 1, 2), {"ko"}


def make_mvtec_ad2(root):
    write(root, "can/train/good/000_regular.png", "can/train/good/001_regular.png")
    write(root, "can/validation/good/000_regular.png")
    write(root, "can/test_public/good/000_shift_1.png")
    write(root, "can/test_public/bad/000_regular.png", "can/test_private/000.png")
    write(root, "can/test_private_mixed/000.png")
    gt = "can/test_public/ground_truth/bad/000_regular_mask.png"
    write(root, gt, mask=MASK)
    return "can", (2, 1, 1), {"bad"}


def make_mvtec_loco(root):
    mvtec_like(root, "pushpins")
    write(root, "pushpins/validation/good/000.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        write(root, f"pushpins/test/{kind}/000.png")
        for i in range(2):
            gt = f"pushpins/ground_truth/{kind}/000/00{i}.png"
            write(root, gt, mask=np.roll(MASK, i, axis=0) // 255 * (250 + i))
    (root / "pushpins" / "defects_config.json").write_text("[]")
    return "pushpins", (3, 1, 2), {"logical_anomalies", "structural_anomalies"}


def make_visa(root):
    write(root, *(f"candle/Data/Images/Normal/000{i}.JPG" for i in range(4)))
    write(root, "candle/Data/Images/Anomaly/000.JPG")
    write(root, "candle/Data/Masks/Anomaly/000.png", mask=MASK)
    lines = ["object,split,label,image,mask"]
    for i in range(4):
        split = "test" if i == 3 else "train"
        lines.append(f"candle,{split},normal,candle/Data/Images/Normal/000{i}.JPG,")
    names = "candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png"
    lines.append(f"candle,test,anomaly,{names}")
    lines.append("pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\r\n".join(lines) + "\r\n")
    return "candle", (3, 1, 1), {"defective"}


def make_dagm(root):
    for part, first in (("Train", 1), ("Test", 576)):
        names = [f"Class1/{part}/{first + i:04d}.PNG" for i in range(4)]
        write(root, *names)
        write(root, f"Class1/{part}/Label/{first + 1:04d}_label.PNG", mask=MASK)
        (root / f"Class1/{part}/Label/Labels.txt").write_text("1\n")
    return "Class1", (3, 3, 1), {"defective"}


def make_kolektor_sdd(root):
    for item in range(1, 7):
        for part in range(2):
            write(root, f"kos0{item}/Part{part}.jpg")
            bad = (item, part) in ((1, 1), (6, 0))
            label = f"kos0{item}/Part{part}_label.bmp"
            write(root, label, mask=MASK if bad else MASK * 0)
    return "kolektor_sdd", (7, 3, 2), {"defective"}


def make_kolektor_sdd2(root):
    for i, (part, bad) in enumerate(
        (("train", 0), ("train", 1), ("train", 0), ("test", 0), ("test", 1))
    ):
        write(root, f"{part}/1000{i}.png")
        write(root, f"{part}/1000{i}_GT.png", mask=MASK * np.uint8(bad))
    return "kolektor_sdd2", (2, 1, 1), {"defective"}


def make_magnetic_tile(root):
    for i in range(5):
        write(root, f"MT_Free/Imgs/exp1_num_{i}.jpg")
        write(root, f"MT_Free/Imgs/exp1_num_{i}.png", mask=MASK * 0)
    for kind in ("Blowhole", "Crack"):
        write(root, f"MT_{kind}/Imgs/exp2_num_1.jpg")
        write(root, f"MT_{kind}/Imgs/exp2_num_1.png", mask=MASK)
    return "magnetic_tile", (4, 1, 2), {"blowhole", "crack"}


def make_elpv(root):
    lines = []
    for i in range(520):
        lines.append(f"images/cell{i:04d}.png  {0.0 if i % 26 else 1.0}  mono")
        write(root, f"images/cell{i:04d}.png")
    (root / "labels.csv").write_text("\n".join(lines))
    return "mono", (300, 200, 20), {"defective"}


def make_folder(root):
    write(root, "a.png", "monday/b.jpg", "monday/late/c.PNG", ".trash/d.png")
    write(root, "test/good/0.png", "test/dent/0.png", "monday/test/e.png")
    write(root, "ground_truth/dent/0_mask.png", mask=MASK)
    return None, (4, 1, 1), {"dent"}


def make_csv(root):
    write(root, *(f"good/{i}.png" for i in range(3)), "bad/0.png")
    write(root, "masks/0.png", mask=MASK)
    text = "image,label,kind,mask,split\ngood/0.png,,,,\ngood/1.png,0,good,,train\n"
    text += '"good/2.png",normal,,,test\n\nbad/0.png,1,dent, masks/0.png ,test\n'
    (root / "list.csv").write_text(text)
    return None, (2, 1, 1), {"dent"}


MAKERS = {
    name.removeprefix("make_"): function
    for name, function in globals().items()
    if name.startswith("make_")
}


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_the_published_layout_is_read(tmp_path, name):
    category, (train, good, bad), kinds = MAKERS[name](tmp_path)
    root = tmp_path / "list.csv" if name == "csv" else tmp_path
    dataset = datasets.load(name, root=root, category=category)
    assert dataset.name == name
    assert dataset.category == (
        category or ("list" if name == "csv" else tmp_path.name)
    )
    labels = collections.Counter((r.split, r.label) for r in dataset.records)
    assert labels == {("train", 0): train, ("test", 0): good, ("test", 1): bad}
    assert {r.kind for r in dataset.test if r.label} == kinds
    assert {r.kind for r in dataset.test if not r.label} == {"good"}
    assert dataset.errors == ()
    assert datasets.readable(dataset) == dataset
    if name != "elpv":
        assert dataset.has_masks
        for record in dataset.test:
            assert datasets.read_mask(record).any() == bool(record.label)


def test_loco_masks_are_united_and_validation_joins_on_demand(tmp_path):
    make_mvtec_loco(tmp_path)
    dataset = datasets.mvtec_loco(tmp_path, "pushpins", validation=True)
    assert len(dataset.train) == 4
    assert datasets.read_mask(dataset.test[1]).sum() == 4
    make_mvtec_ad2(tmp_path)
    assert len(datasets.mvtec_ad2(tmp_path, "can", validation=True).train) == 3


@pytest.mark.parametrize(
    "name",
    ["mvtec", "mpdd", "btad", "mvtec_ad2", "mvtec_loco", "visa", "magnetic_tile"],
)
def test_a_missing_mask_is_no_error_unless_it_must_be_there(tmp_path, name):
    category, *_ = MAKERS[name](tmp_path)
    place = {"root": tmp_path, "category": category}
    record = datasets.load(name, **place, require_masks=True).test[-1]
    gone = record.mask.rename(tmp_path / "gone")
    dataset = datasets.load(name, **place)
    assert record._replace(mask=None) in dataset.records
    assert not dataset.has_masks
    with pytest.raises(datasets.DatasetError, match="its mask is missing; add it"):
        datasets.load(name, **place, require_masks=True, skip_bad=True)
    gone.rename(record.mask)
    assert record in datasets.load(name, **place).records


@pytest.mark.parametrize("name", ["kolektor_sdd", "kolektor_sdd2"])
def test_kolektor_masks_must_be_there_and_readable(tmp_path, name):
    MAKERS[name](tmp_path)
    masks = sorted([*tmp_path.rglob("*_label.bmp"), *tmp_path.rglob("*_GT.png")])
    masks[0].write_bytes(b"damaged")
    with pytest.raises(images.ImageError, match=masks[0].name):
        datasets.load(name, root=tmp_path)
    assert len(datasets.load(name, root=tmp_path, skip_bad=True).errors) == 1
    masks[0].unlink()
    with pytest.raises(datasets.DatasetError, match="is missing; add it"):
        datasets.load(name, root=tmp_path)


@pytest.mark.parametrize(
    "name", ["mvtec", "mpdd", "btad", "mvtec_ad2", "mvtec_loco", "visa", "dagm"]
)
def test_unknown_categories_list_the_others(tmp_path, name):
    category, *_ = MAKERS[name](tmp_path)
    with pytest.raises(datasets.DatasetError, match=f"there are: {category}"):
        datasets.load(name, root=tmp_path, category="no_such")


def test_unsplit_sets_do_not_overlap_and_are_stable(tmp_path):
    make_magnetic_tile(tmp_path)
    dataset = datasets.magnetic_tile(tmp_path)
    train = {record.image for record in dataset.train}
    assert not train & {record.image for record in dataset.test}
    order = np.random.RandomState(0).permutation(5)[:4]
    assert {int(path.stem[-1]) for path in train} == set(order.tolist())


def test_missing_roots_are_named(tmp_path):
    for name in datasets.LOADERS:
        with pytest.raises(datasets.DatasetError, match="nowhere"):
            datasets.load(
                name,
                root=tmp_path / "nowhere",
                category="mono" if name == "elpv" else "x",
            )


def test_load_says_what_it_needs(tmp_path):
    with pytest.raises(datasets.DatasetError, match="there are: mvtec, "):
        datasets.load("imagenet", root=tmp_path)
    with pytest.raises(datasets.DatasetError, match="say where"):
        datasets.load("mvtec")
    with pytest.raises(datasets.DatasetError, match="say which category"):
        datasets.load("visa", root=tmp_path)


def test_a_folder_may_be_bare_or_have_train(tmp_path):
    write(tmp_path, "a.png", "b.png")
    bare = datasets.folder(tmp_path, category="bolts")
    assert (bare.category, len(bare.train), bare.test) == ("bolts", 2, ())
    write(tmp_path, "train/0.png", "test/dent/0.png")
    mixed = datasets.folder(tmp_path)
    assert [r.image.name for r in mixed.train] == ["0.png"]
    assert mixed.test[0].mask is None
    assert not mixed.has_masks
    write(tmp_path, "train/good/1.png")
    assert [r.image.name for r in datasets.folder(tmp_path).train] == ["1.png"]


def test_a_folder_of_categories_is_not_trained_on_as_one(tmp_path):
    make_mvtec(tmp_path)
    make_mpdd(tmp_path)
    with pytest.raises(datasets.DatasetError, match="name one: screw, tubes"):
        datasets.folder(tmp_path)
    assert len(datasets.folder(tmp_path / "screw").train) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(datasets.DatasetError, match="no images here"):
        datasets.folder(tmp_path / "empty")


def test_kinds_beside_each_other_are_understood(tmp_path):
    """As other libraries have it: normal, abnormal, and masks in a folder apart."""
    write(tmp_path, *(f"Normal/{i}.png" for i in range(3)), "abnormal/x.jpg")
    write(tmp_path, "abnormal/deep/y.png")
    write(tmp_path, "mask/x.png", "mask/deep/y.PNG", mask=MASK)
    dataset = datasets.folder(tmp_path, train=False)
    assert dataset.train == ()
    assert [(r.image.name, r.kind, r.label) for r in dataset.test] == [
        *((f"{i}.png", "good", 0) for i in range(3)),
        *(("y.png", "abnormal", 1), ("x.jpg", "abnormal", 1)),
    ]
    assert dataset.has_masks
    assert "kinds: Normal (normal), abnormal (anomalous)" in dataset.notes[0]
    assert "--normal" in dataset.notes[0]
    learnt = datasets.folder(tmp_path)
    assert {r.image.parent.name for r in learnt.train} == {"Normal"}
    assert {r.image.name for r in learnt.test} == {"x.jpg", "y.png"}
    with pytest.raises(datasets.DatasetError, match="'gut'; there are: Normal, abn"):
        datasets.folder(tmp_path, names=datasets.Names(normal=("gut",)))


@pytest.mark.parametrize("good", ["ok", "Good", "OK", "normal"])
def test_a_normal_kind_has_many_names(tmp_path, good):
    write(tmp_path, "train/0.png", f"test/{good}/0.png", "test/dent/sub/0.png")
    write(tmp_path, "ground_truth/dent/sub/0_mask.png", mask=MASK)
    dataset = datasets.folder(tmp_path)
    assert [(r.kind, r.label) for r in dataset.test] == [("good", 0), ("dent", 1)]
    assert dataset.has_masks
    assert f"{good} (normal)" in dataset.notes[0]


def test_which_kinds_are_normal_is_told_or_said(tmp_path):
    write(tmp_path, "a.png", "test/good/0.png", "test/dent/0.png")
    assert datasets.folder(tmp_path).notes == ()
    write(tmp_path, "test/ok/0.png", "test/loose.png")
    both = datasets.folder(tmp_path)
    assert [r.label for r in both.test] == [0, 0, 1]
    assert "good (normal), ok (normal)" in both.notes[0]
    assert "of no kind: " in both.notes[1]
    said = datasets.folder(tmp_path, names=datasets.Names(normal=("dent",)))
    assert [r.kind for r in said.test] == ["good", "good", "ok"]
    assert "the kind 'ok' counts as anomalous" in said.notes


def test_masks_may_lie_anywhere(tmp_path):
    write(tmp_path, "a.png", "test/dent/0.png", "test/hole/0.png", "test/hole/1.png")
    write(tmp_path, "test/dent/0_mask.png", mask=MASK)  # Beside its image.
    write(tmp_path, "truth/1.png", "truth/0.png", mask=MASK)
    dataset = datasets.folder(tmp_path, names=datasets.Names(masks=tmp_path / "truth"))
    found = {f"{r.kind}/{r.image.name}": r.mask for r in dataset.test}
    assert found == {
        "dent/0.png": tmp_path / "test/dent/0_mask.png",
        "hole/0.png": None,  # Two images are called 0.
        "hole/1.png": tmp_path / "truth/1.png",
    }


def test_an_evaluation_needs_no_training_images(tmp_path):
    write(tmp_path, "set/test/good/0.png", "set/test/dent/0.png")
    dataset = datasets.folder(tmp_path / "set", train=False)
    assert (len(dataset.train), len(dataset.test)) == (0, 2)
    assert datasets.folder(tmp_path, train=False, category="set") == dataset
    (tmp_path / "set" / "train").mkdir()
    assert datasets.folder(tmp_path / "set", train=False) == dataset
    with pytest.raises(datasets.DatasetError, match="name one: set"):
        datasets.folder(tmp_path, train=False)
    with pytest.raises(datasets.DatasetError, match="put normal ones in"):
        datasets.folder(tmp_path / "set")
    write(tmp_path, "bare/0.png")
    with pytest.raises(datasets.DatasetError, match="no test images"):
        datasets.folder(tmp_path / "bare", train=False)


def test_a_category_of_a_folder_can_be_named(tmp_path):
    make_mvtec(tmp_path)
    make_mpdd(tmp_path)
    dataset = datasets.folder(tmp_path, category="tubes")
    assert (dataset.category, len(dataset.train)) == ("tubes", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the header must name image"),
        ("path\na.png\n", "the header must name image"),
        ("image,image\na.png,b.png\n", "each once"),
        ("image,label\na.png,2\n", "line 2: label '2'"),
        ("image,split\na.png,val\n", "line 2: split 'val'"),
        ("image,label\na.png\n", "line 2: 1 fields, not 2"),
        ("image,label\n,0\n", "line 2: the path"),
        ("image\nnone.png\n", "none.png: no such image"),
        ("image,label,kind\na.png,0,\na.png,1,../up\n", "no plain name"),
        ("image,label,split\na.png,1,train\n", "anomalous, but listed for training"),
        ("image\na.png\na.png\n", "listed 2 times"),
        ("image,label\na.png,1\n", "no normal training images"),
        ('image\n"a.png\n', "not a readable table"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    write(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(datasets.DatasetError, match=message):
        datasets.listed(tmp_path / "list.csv")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path, mark):
    write(tmp_path, "a, b.png" if mark != "," else "a.png", "b.png", "c.png", "d.png")
    first = "a, b.png" if mark != "," else "a.png"
    rows = [("Image", "Label"), (first, "OK"), ("b.png", "ok"), ("c.png", "NG")]
    rows.append(("d.png", "Abnormal"))
    text = "\ufeff" + "\r\n".join(mark.join(row) for row in rows)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    dataset = datasets.listed(tmp_path / "list.csv")
    assert [r.image.name for r in dataset.train] == [first, "b.png"]
    assert [r.image.name for r in dataset.test] == ["c.png", "d.png"]
    tested = datasets.listed(tmp_path / "list.csv", train=False)
    assert [record.label for record in tested.test] == [0, 0, 1, 1]
    assert "no column split" in tested.notes[0]


def test_a_visa_table_does_not_lead_out_of_its_folder(tmp_path):
    make_visa(tmp_path)
    table = tmp_path / "split_csv" / "1cls.csv"
    table.write_text(table.read_text() + "candle,test,normal,../secret.png,\n")
    with pytest.raises(datasets.DatasetError, match=r"line 8: .*no path below"):
        datasets.visa(tmp_path, "candle")


@hypothesis.given(st.binary(max_size=120) | st.text(max_size=120).map(str.encode))
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_table_is_read_or_refused(tmp_path_factory, data):
    table = tmp_path_factory.getbasetemp() / "fuzz.csv"
    for head in (b"", b"image,label,mask\n"):
        table.write_bytes(head + data)
        with pytest.raises(datasets.DatasetError):
            datasets.listed(table)
    for mark in (b";", b"\t"):
        table.write_bytes(b"image" + mark + b"label\n" + data)
        with pytest.raises(datasets.DatasetError):
            datasets.listed(table, train=False, skip_bad=True)


@pytest.mark.parametrize("category", ["texture", "plate"])
def test_the_synthetic_set_is_a_tree_from_a_seed(tmp_path, category):
    options = {"num_train": 3, "num_good": 2, "num_bad": 2, "size": 48}
    dataset = datasets.write_synthetic(tmp_path / "a", category=category, **options)
    again = datasets.write_synthetic(tmp_path / "b", category=category, **options)
    other = datasets.write_synthetic(
        tmp_path / "c", category=category, seed=1, **options
    )
    assert len(dataset.train) == 3
    assert dataset.has_masks
    for one, two, three in zip(
        dataset.records, again.records, other.records, strict=True
    ):
        assert one.image.read_bytes() == two.image.read_bytes()
        assert one.image.read_bytes() != three.image.read_bytes()
        mask = datasets.read_mask(one)
        assert mask.shape == (48, 48)
        assert (0.001 < mask.mean() < 0.2) == bool(one.label)


@pytest.mark.parametrize("category", ["texture", "plate"])
def test_synthetic_defects_are_seen_where_the_mask_says(category):
    good = np.stack([datasets.draw(category, number=i)[0] for i in range(24)])
    mean, spread = good.mean(0), good.std(0) + 10
    for kind in datasets.synthetic.KINDS[category]:
        inside, outside = [], []
        for number in range(6):
            image, mask = datasets.draw(category, kind=kind, number=number)
            distance = np.abs(image - mean).mean(-1) / spread.mean(-1)
            inside.append(distance[mask].mean())
            outside.append(distance[~mask].mean())
        assert np.mean(inside) > 1.5 * np.mean(outside)


def test_the_tenth_image_does_not_depend_on_the_others():
    alone, _ = datasets.draw("plate", number=9, size=32)
    series = [datasets.draw("plate", number=i, size=32)[0] for i in range(10)]
    np.testing.assert_array_equal(alone, series[9])
    assert len({image.tobytes() for image in series}) == 10


def test_synthetic_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match="there are: texture, plate"):
        datasets.draw("bottle")
    with pytest.raises(ValueError, match="no kind 'missing' in texture"):
        datasets.draw("texture", kind="missing")
    with pytest.raises(ValueError, match="size"):
        datasets.draw("texture", size=8)
    with pytest.raises(ValueError, match="num_train"):
        datasets.write_synthetic(tmp_path, num_train=0)
    with pytest.raises(ValueError, match="there are"):
        datasets.write_synthetic(tmp_path, category="../up")
    assert list(pathlib.Path(tmp_path).iterdir()) == []
