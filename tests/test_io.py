"""Model files: bit-exact, checked, and safe to open."""

import dataclasses
import json
import os
import struct

import jax
import numpy as np
import pytest
import safetensors
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gladjax import backbone, detector, factors, files, io, mixture
from gladjax.io import container


@pytest.fixture(scope="module")
def fitted():
    scores = np.sort(np.random.default_rng(0).normal(size=25))
    return dataclasses.replace(tiny.fitted(), calibration=scores)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    io.save(path, fitted, false_positive_rate=0.1, notes={"made": "by a test"})
    return path


def learnt(model):
    """Everything that is saved, as arrays; of flat ones what is used."""
    return [model.mask, model.reference, model.calibration] + [
        leaf
        for layer in model.layers.values()
        for leaf in jax.tree.leaves((used(layer.mixture), layer.local_weights))
    ]


def used(given):
    return mixture.first(given, len(given.means))


@pytest.mark.parametrize(
    ("motion", "local"), [("", True), ("", False), ("affine", True)]
)
def test_round_trip_is_bit_exact(tmp_path, motion, local):
    model = tiny.fitted(motion=motion, local=local)
    path = tmp_path / "a" / "model.safetensors"
    io.save(path, model)
    again = io.load(path, backbone=tiny.network())
    for before, after in zip(learnt(model), learnt(again), strict=True):
        if before is None:
            assert after is None
            continue
        assert np.asarray(before).dtype == np.asarray(after).dtype
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert list(again.layers) == list(model.layers)
    assert again.settings == model.settings
    assert again.calibration is None
    image = tiny.pictures(1, kind="spot")[0]
    assert detector.score(model, image).score == detector.score(again, image).score
    io.save(tmp_path / "b.safetensors", again)
    assert (tmp_path / "b.safetensors").read_bytes() == path.read_bytes()


def test_float64_models_keep_their_precision(x64, tmp_path):
    def double(leaf):
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf

    def solved(given):  # The inverses are not in the file.
        return factors.solved(given, mixture.num_inverses(given))

    model = tiny.fitted()
    layers = {
        name: dataclasses.replace(
            layer,
            mixture=solved(jax.tree.map(double, layer.mixture)),
            local_weights=jax.tree.map(double, layer.local_weights),
        )
        for name, layer in model.layers.items()
    }
    model = dataclasses.replace(model, layers=layers)
    io.save(tmp_path / "m", model)
    again = io.load(tmp_path / "m", backbone=tiny.network())
    for before, after in zip(learnt(model), learnt(again), strict=True):
        np.testing.assert_array_equal(before, after, strict=True)


@pytest.mark.parametrize("half", [False, True])
def test_room_in_flat_arrays_is_not_stored(tmp_path, half):
    def saved(change, name):
        layers = {
            name: dataclasses.replace(layer, mixture=change(layer.mixture))
            for name, layer in model.layers.items()
        }
        io.save(tmp_path / name, dataclasses.replace(model, layers=layers), half=half)
        return (tmp_path / name).read_bytes()

    model = tiny.fitted()

    def wide(given):
        return mixture.padded(given, len(given.rows) + 99, len(given.inverses) + 999)

    assert saved(wide, "wide") == saved(used, "narrow")


def test_derived_bounds_are_not_stored(fitted, saved):
    with safetensors.safe_open(saved, framework="np") as file:
        names = set(file.keys())
    assert not any("prepared" in name or "basis" in name for name in names)
    loaded = io.load(saved, backbone=tiny.network())
    for name, layer in loaded.layers.items():
        before = fitted.layers[name].prepared
        pairs = zip(*map(jax.tree.leaves, (before, layer.prepared)), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_programs_of_a_fit_serve_what_is_loaded(fitted, saved):
    loaded = io.load(saved, backbone=tiny.network())
    for name, layer in loaded.layers.items():
        before = fitted.layers[name].mixture, fitted.layers[name].prepared
        pairs = zip(
            *map(jax.tree.leaves, (before, (layer.mixture, layer.prepared))),
            strict=True,
        )
        for a, b in pairs:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_the_header_tells_what_the_model_is(fitted, saved):
    found = io.describe(saved)
    assert found.version == io.VERSION
    assert found.backbone["name"] == "tiny"
    assert found.settings["num_components"] == 12
    assert found.false_positive_rate == 0.1
    # 26 * 0.1 = 2.6: the second largest score.
    assert found.threshold == np.sort(fitted.calibration)[-2]
    assert found.num_calibration == 25
    assert found.libraries["jax"] == jax.__version__
    assert found.notes == {"made": "by a test"}


def test_without_a_backbone_the_named_one_is_loaded(tmp_path):
    lite = backbone.load("efficientnet_lite0", image_size=(64, 64))
    model = detector.fit(
        jax.random.key(0),
        lite,
        tiny.pictures(3),
        settings=detector.Settings(
            num_components=3, max_steps=2, neighbourhood=1, local=False
        ),
    )
    io.save(tmp_path / "m", model)
    again = io.load(tmp_path / "m")
    assert again.backbone.sha256 == lite.sha256 != ""
    assert again.backbone.image_size == (64, 64)
    image = tiny.pictures(1)[0]
    assert detector.score(model, image).score == detector.score(again, image).score


def test_another_backbone_is_refused(saved):
    with pytest.raises(io.ModelError, match=r"sha256.*fit again"):
        io.load(saved, backbone=tiny.network(seed=1))
    resized = dataclasses.replace(tiny.network(), image_size=(64, 64))
    with pytest.raises(io.ModelError, match="image_size"):
        io.load(saved, backbone=resized)
    other = dataclasses.replace(tiny.network(), offset=(1.0, 0.0, 0.0))
    with pytest.raises(io.ModelError, match="offset"):
        io.load(saved, backbone=other)
    with pytest.raises(io.ModelError, match=r"'tiny'.*backbone="):
        io.load(saved)


def rewritten(path, target, change):
    """Writes the file again, consistent and with a right checksum, but changed."""
    arrays, header = container.read(path)
    arrays = {name: value.copy() for name, value in arrays.items()}
    changed = change(arrays, header)
    container.write(target, arrays, header if changed is None else changed)
    return target


def test_a_version_from_the_future_is_refused(saved, tmp_path):
    def change(_, header):
        header["version"] = io.VERSION + 1
        header["libraries"]["gladjax"] = "9.1"

    path = rewritten(saved, tmp_path / "m", change)
    for read in (io.describe, io.load):
        with pytest.raises(io.ModelError, match=r"form 4 by gladjax 9\.1.*install"):
            read(path)


def test_a_version_of_another_form_is_refused(saved, tmp_path):
    def change(_, header):
        header["version"] = io.VERSION - 1

    path = rewritten(saved, tmp_path / "m", change)
    for read in (io.describe, io.load):
        with pytest.raises(io.ModelError, match=r"form 2 by an earlier.*fit again"):
            read(path)


@pytest.mark.parametrize("part", ["version", "backbone", "settings", "order", "layers"])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, True, [[]], {"a": {}}])
def test_a_header_of_another_form_is_refused(saved, tmp_path, part, value):
    def change(_, header):
        header[part] = value

    path = rewritten(saved, tmp_path / "m", change)
    if part == "settings" and value == {}:
        settings_ = io.load(path, backbone=tiny.network()).settings
        assert settings_ == detector.Settings()
        return
    with pytest.raises(io.ModelError, match=str(path)):
        io.load(path, backbone=tiny.network())


@pytest.mark.parametrize(
    ("name", "value"),
    [("colour", 1), ("radius", "1"), ("local", 1), ("num_components", 1.5),
     ("quantile", 2.0), ("num_components", True)],
)  # fmt: skip
def test_an_impossible_setting_is_refused(saved, tmp_path, name, value):
    def change(_, header):
        header["settings"][name] = value

    path = rewritten(saved, tmp_path / "m", change)
    with pytest.raises(io.ModelError, match=name):
        io.load(path, backbone=tiny.network())


ABSURD = [
    ("settings.sigma", 1e9, "sigma must be 0 to 1000"),
    ("settings.sigma", -1, "sigma must be 0 to 1000"),
    ("settings.radius", 1e5, "radius must be 0 to 100"),
    ("settings.prior", -0.5, "prior must be 0 to"),
    ("settings.quantile", 2.0, "quantile must be 0 to 1"),
    ("settings.num_components", -1, "num_components must be 0 to"),
    ("settings.num_components", 10**100, "num_components must be 0 to"),
    ("settings.max_steps", -1, "max_steps must be 0 to"),
    ("settings.tolerance", 10**400, "'tolerance' has no usable value"),
    ("settings.estimator", "x" * 10**6, "estimator must be kmle or em"),
    ("settings.motion", "spin", "motion must be one of translation"),
    ("false_positive_rate", 1e-320, "no usable false_positive_rate"),
    ("false_positive_rate", 1.0, "no usable false_positive_rate"),
    ("threshold", 10**400, "no usable threshold"),
    ("threshold", "12", "no usable threshold"),
    ("num_calibration", -3, "no usable num_calibration"),
    ("num_calibration", 10**100, "no usable num_calibration"),
    ("backbone.offset", ["0", "0", "0"], "no usable backbone"),
    ("backbone.scale", [1e300, 1, 1], "no usable backbone"),
    ("backbone.dims", ["5", "7"], "no usable backbone"),
    ("backbone.dims", [0, 7], "no usable backbone"),
    ("backbone.layers", [5, 7], "no usable backbone"),
    ("notes.seconds", "long", "no usable notes"),
    ("notes.seconds", {"all": "long"}, "no usable notes"),
    ("notes.num_images", "many", "no usable notes"),
]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    ABSURD,
    ids=[f"{i}-{p}" for i, (p, *_) in enumerate(ABSURD)],
)
def test_absurd_numbers_in_a_header_are_refused_by_name(
    saved, tmp_path, place, value, message
):
    """The checksum is right; what they would do later is hang, or fail without name."""

    def change(_, header):
        *folders, name = place.split(".")
        for folder in folders:
            header = header[folder]
        header[name] = value

    path = rewritten(saved, tmp_path / "m", change)
    with pytest.raises(io.ModelError, match=message) as error:
        io.load(path, backbone=tiny.network())
    assert len(str(error.value)) < 400
    if not place.startswith("settings."):
        with pytest.raises(io.ModelError, match=message):
            io.describe(path)


@pytest.mark.parametrize(
    ("name", "value"), [("sigma", 1e9), ("radius", 1e5), ("motion", "spin")]
)
def test_what_a_model_may_not_have_is_not_fitted(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        detector.fit(
            jax.random.key(0),
            tiny.network(),
            tiny.pictures(2),
            settings=detector.Settings(**{name: value}),
        )


def test_a_rate_of_no_model_is_not_saved(fitted, tmp_path):
    for rate in (0.0, 1e-320, 1.0):
        with pytest.raises(ValueError, match="the false-positive rate must be"):
            io.save(tmp_path / "m", fitted, false_positive_rate=rate)
    assert not list(tmp_path.iterdir())


def test_a_table_without_end_is_refused_before_it_is_read(saved, tmp_path):
    whole = saved.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    longer = container.MAX_HEADER * 4 + 8  # Blanks are read like a million tensors.
    table_ = whole[8 : 8 + length] + b" " * (longer - length)
    path = tmp_path / "m"
    path.write_bytes(struct.pack("<Q", longer) + table_ + whole[8 + length :])
    for read in (io.describe, io.load):
        with pytest.raises(io.ModelError, match=r"a table of 16777224 bytes"):
            read(path)


def _set(name, index, value):
    def change(arrays, _):
        arrays[name][index] = value

    return change


def _replace(name, function):
    def change(arrays, _):
        arrays[name] = function(arrays[name])

    return change


CRAFTED = {
    "component beyond": _set("0.local.components", 3, 10**6),
    "component negative": _set("0.local.components", 3, -1),
    "components fall": _replace("1.local.components", lambda a: a[::-1].copy()),
    "starts beyond": _set("0.local.starts", -1, 10**6),
    "starts fall": _set("0.local.starts", 5, 0),
    "nothing active": _set("0.local.starts", 1, 0),
    "offset beyond": _set("0.mixture.offsets", 0, 10**6),
    "offset negative": _set("0.mixture.offsets", 0, -5),
    "rank beyond": _set("0.mixture.ranks", -1, 2**31 - 1),
    "rank negative": _set("0.mixture.ranks", 0, -1),
    "mean not finite": _set("1.mixture.means", (0, 0), np.nan),
    "row not finite": _set("1.mixture.rows", (0, 0), np.inf),
    "noise negative": _set("1.mixture.noise", 0, -1.0),
    "weight none": _set("1.mixture.log_weights", 0, np.nan),
    "local weight none": _set("1.local.log_weights", 0, -np.inf),
    "other dtype": _replace("0.mixture.means", lambda a: a.astype(np.float64)),
    "wide integers": _replace("0.local.starts", lambda a: a.astype(np.int64)),
    "another rank": _replace("0.mixture.means", lambda a: a[None]),
    "shorter": _replace("0.mixture.log_dets", lambda a: a[:-1]),
    "features": _replace("0.mixture.means", lambda a: a[:, :-1]),
    "no components": _replace("0.mixture.means", lambda a: a[:0]),
    "mask of another size": _replace("mask", lambda a: a[:-1]),
    "mask of numbers": _replace("mask", lambda a: a.astype(np.float32)),
    "calibration none": _set("calibration", 0, np.nan),
    "calibration of two axes": _replace("calibration", lambda a: a[:, None]),
    "missing": lambda arrays, _: (arrays.pop("1.mixture.rows"), None)[1],
    "extra": lambda arrays, _: arrays.update(more=np.zeros(2)),
    "unexpected reference": lambda arrays, _: arrays.update(
        reference=np.zeros((32, 32, 3), np.float32)
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused(saved, tmp_path, name):
    """The checksum is right, so only the checks of the contents can find it."""
    path = rewritten(saved, tmp_path / "m", lambda a, h: CRAFTED[name](a, h))
    with pytest.raises(io.ModelError, match=str(path)):
        io.load(path, backbone=tiny.network())


def test_every_changed_byte_is_noticed(saved, tmp_path, rng):
    """Bits of the table, the header and the arrays, at random places."""
    data = saved.read_bytes()
    places = [*rng.integers(0, len(data), 60), *rng.integers(0, 3000, 40)]
    path = tmp_path / "m"
    for place in places:
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << rng.integers(8)
        path.write_bytes(spoiled)
        with pytest.raises(io.ModelError, match=str(path)):
            io.load(path, backbone=tiny.network())


def test_every_truncation_is_noticed(saved, tmp_path, rng):
    data = saved.read_bytes()
    path = tmp_path / "m"
    for length in (0, 1, 7, 8, 9, 100, len(data) - 1, *rng.integers(0, len(data), 20)):
        path.write_bytes(data[:length])
        with pytest.raises(io.ModelError, match=str(path)):
            io.load(path, backbone=tiny.network())
    path.write_bytes(data + b"\0")
    with pytest.raises(io.ModelError, match="copy it again"):
        io.load(path, backbone=tiny.network())


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=300), length=st.none() | st.integers(0, 2**64 - 1))
def test_any_bytes_are_refused_clearly(tmp_path, data, length):
    """A claimed length of many gigabytes allocates nothing."""
    path = tmp_path / "m"
    path.write_bytes(b"" if length is None else struct.pack("<Q", length))
    with path.open("ab") as file:
        file.write(data)
    with pytest.raises(io.ModelError, match=str(path)):
        io.load(path)
    with pytest.raises(io.ModelError, match=str(path)):
        io.describe(path)


LONG = " " * (5 * 2**20)


def table(entries, data=b""):
    encoded = json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


@pytest.mark.parametrize(
    "content",
    [
        table({"__metadata__": {"format": "other"}}),
        table({"__metadata__": {"format": container.FORMAT}}),
        table({"__metadata__": {"format": container.FORMAT, "header": "[" * 10**5}}),
        table({"__metadata__": {"format": container.FORMAT, "header": "[]"}}),
        table({"__metadata__": {"format": container.FORMAT, "header": '{"a": NaN}'}}),
        table({"__metadata__": {"format": container.FORMAT, "header": LONG}}),
        table({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        table({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    ],
    ids=["other", "none", "deep", "list", "nan", "long", "bomb", "negative", "pickle"],
)  # fmt: skip
def test_headers_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(io.ModelError, match=str(path)):
        io.describe(path)
    with pytest.raises(io.ModelError, match=str(path)):
        io.load(path)


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(io.ModelError, match="check the path"):
            io.load(path)


def test_a_failed_save_leaves_the_old_file(fitted, saved, tmp_path, monkeypatch):
    path = tmp_path / "m"
    path.write_bytes(saved.read_bytes())

    def broken(file, value):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(container, "_pour", broken)
    with pytest.raises(KeyboardInterrupt):
        io.save(path, fitted)
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["m"]


def test_refuses_what_the_file_has_no_type_for(tmp_path, fitted):
    with pytest.raises(ValueError, match="complex"):
        container.write(tmp_path / "m", {"a": np.zeros(2, complex)}, {})
    with pytest.raises(ValueError, match="false-positive rate"):
        io.save(tmp_path / "m", fitted, false_positive_rate=1.5)
    assert not os.listdir(tmp_path)


def test_scalars_empty_arrays_and_byte_orders_survive(tmp_path):
    arrays = {
        "scalar": np.array(0.1),
        "empty": np.zeros((0, 3), np.float32),
        "big": np.arange(4, dtype=">i4"),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "bool": np.array([True, False]),
    }
    container.write(tmp_path / "m", arrays, {"x": 1})
    again, header = container.read(tmp_path / "m")
    assert header == {"x": 1}
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
    with safetensors.safe_open(tmp_path / "m", framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("big"), np.arange(4))


def test_json_that_is_none_is_refused_clearly(tmp_path):
    """The reader of JSON results, beside the reader of models."""
    path = tmp_path / "a.json"
    for text in ("", "[" * 10**5, '{"a": 1', "NaN", "\x00", '"\ud83d'):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match=str(path)):
            files.read_json(path)


@pytest.mark.parametrize("num_images", [2, 6])
def test_half_precision_is_half_the_size_and_close(tmp_path, num_images):
    """Few images make spikes, more of them complete, triangular components."""
    model = detector.fit(
        jax.random.key(0),
        tiny.network(),
        tiny.pictures(num_images),
        settings=detector.Settings(num_components=4, max_steps=3),
    )
    for half in (False, True):
        io.save(tmp_path / str(half), model, half=half)
    again = io.load(tmp_path / "True", backbone=tiny.network())

    def stored(half, name):
        with safetensors.safe_open(tmp_path / str(half), framework="np") as file:
            kept = [key for key in file.keys() if name in key]  # noqa: SIM118
            return sum(file.get_tensor(key).nbytes for key in kept)

    assert stored(True, ".entries") <= 0.5 * stored(False, ".rows")
    image = tiny.pictures(1, kind="spot")[0]
    before, after = detector.score(model, image), detector.score(again, image)
    change = np.abs(np.asarray(after.log_map) - np.asarray(before.log_map))
    assert 0 < change.max() < 1e-3 * np.abs(np.asarray(before.log_map)).max()


def spoil_offsets(arrays):
    arrays["0.mixture.offsets"][1] = 10**6


def spoil_ranks(arrays):
    arrays["0.mixture.ranks"][:] = 10**6


def spoil_entries(arrays):
    arrays["0.mixture.half.entries"] = arrays["0.mixture.half.entries"][:-1]


def spoil_scales(arrays):
    arrays["0.mixture.half.scales"] = np.ones(10**6, np.float32)


def spoil_type(arrays):
    arrays["0.mixture.half.triangular"] = np.zeros(3, np.int32)


def spoil_number(arrays):
    arrays["0.mixture.half.triangular"] = np.zeros(1, bool)


def lose(arrays):
    del arrays["0.mixture.half.entries"]


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_offsets,
        spoil_ranks,
        spoil_entries,
        spoil_scales,
        spoil_type,
        spoil_number,
        lose,
    ],
)
def test_spoiled_halves_are_refused(fitted, tmp_path, spoil):
    path = tmp_path / "m"
    io.save(path, fitted, half=True)
    arrays, header = container.read(path)
    arrays = {name: np.array(value) for name, value in arrays.items()}
    spoil(arrays)
    container.write(path, arrays, header)
    with pytest.raises(io.ModelError, match=r"fit again"):
        io.load(path, backbone=tiny.network())
