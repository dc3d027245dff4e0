"""Checkpoints: what torch writes is read, what is hostile or damaged is refused."""

import contextlib
import hashlib
import pathlib
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch_files as make

from gladjax import backbone
from gladjax.backbone import CheckpointError, read_checkpoint

FOLDER = pathlib.Path(__file__).parent / "golden" / "backbone"
STATE = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.count": np.asarray([7], np.int64),
}
WRITERS = {"zip": make.write_zip, "legacy": make.write_legacy}


@pytest.fixture(params=sorted(WRITERS))
def write(request, tmp_path):
    """Writes a file of one form."""

    def run(state=STATE, **keywords):
        path = tmp_path / f"{request.param}.pth"
        return WRITERS[request.param](path, state, **keywords)

    run.form = request.param
    return run


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_reads_what_torch_writes(form):
    state = read_checkpoint(FOLDER / f"checkpoint_{form}.pth")
    with np.load(FOLDER / "checkpoint.npz") as expected:
        assert list(state) == list(expected)
        for name, value in expected.items():
            wanted = "bfloat16" if name == "bfloat16" else value.dtype.name
            assert state[name].dtype.name == wanted
            np.testing.assert_array_equal(state[name].astype(value.dtype), value)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_unwraps_a_training_checkpoint(form):
    """Epoch, optimiser and the prefix of data parallelism are left behind."""
    state = read_checkpoint(FOLDER / f"checkpoint_wrapped_{form}.pth")
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(state) == ["0.weight", "0.bias", *(f"1.{name}" for name in names)]
    assert state["0.weight"].shape == (4, 3, 3, 3)


def test_both_forms_hold_the_same(tmp_path):
    hashes = {
        backbone.content_hash(read_checkpoint(writer(tmp_path / form, STATE)))
        for form, writer in WRITERS.items()
    }
    assert hashes == {backbone.content_hash(STATE)}


def test_reads_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(STATE, path)
    state = read_checkpoint(path)
    assert sorted(state) == sorted(STATE)
    for name, value in STATE.items():
        np.testing.assert_array_equal(state[name], value)


def test_attributes_of_a_state_dict_are_dropped(write):
    body = make.state_program(STATE, legacy=write.form == "legacy")[2:-1]
    pickled = make.program(body + make.dictionary(_metadata=b"}") + b"b")
    assert set(read_checkpoint(write(pickled=pickled))) == set(STATE)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("posix", "system"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.storage", "_load_from_bytes"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_any_other_global_is_refused_by_name(module, name, protocol, write):
    asked = (
        make.function(f"{module}.{name}")
        if protocol == 2 and "." not in name
        else make.text(module) + make.text(name) + b"\x93"
    )
    attack = asked + make.group(make.text("echo attacked")) + b"R"
    pickled = make.program(make.dictionary(weight=attack))
    with pytest.raises(CheckpointError, match=f"refused the global {module}.{name}"):
        read_checkpoint(write(pickled=pickled))


@pytest.mark.parametrize(
    ("instruction", "name"),
    [
        (b"\x82\x01", "EXT1"),
        (b"(" + make.text("a") + b"i" + b"os\nsystem\n", "INST"),
        (make.text("a") + b")\x81", "NEWOBJ"),
        (b"Pname\n", "PERSID"),
        (b"\x8f", "EMPTY_SET"),
        (b"I12345\n", "INT"),
        (b"\x8e" + struct.pack("<Q", 2**40), "damaged"),
    ],
)
def test_any_other_instruction_is_refused_by_name(instruction, name, write):
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(write(pickled=make.program(instruction)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (make.function("torch.FloatStorage") + b")R", "refused a call of torch.Float"),
        (make.integer(3) + b")R", "refused a call of something that is no global"),
        (b"(" + make.text("module") + b"}" * 4 + b"tQ", "no storage"),
        (b"N}b", "refused attributes"),
        (b"}(" + make.group(b"N") + b"Nu", "refused a key of type tuple"),
        (b"]" + make.integer(1) + make.integer(2) + b"s", "not a dict"),
        (b"}" + make.integer(1) + b"a", "not a list"),
        (b"}}", "data left on its stack"),
        (b"", "cut short or damaged"),
        (b"h\x05", "cut short or damaged"),
        (b"(", "damaged|lacks its operand"),
        (b"N", "no dictionary of tensors"),
        (make.dictionary(weight=make.integer(3)), "'weight' is a int, not a tensor"),
    ],
)
def test_data_that_are_no_state_dict_are_refused(body, message, write):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write(pickled=make.program(body)))


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "claimed"),
    [
        ((2**40,), (1,), 0, 6),
        ((2**40,), (0,), 0, 6),
        ((2, 3), (3, 1), 1, 6),
        ((2, 2), (100, 1), 0, 6),
        ((7,), (1,), 0, 6),
        ((6,), (1,), 0, 2**40),
        ((2**40,), (1,), 0, 2**40),
        ((2**33, 2**33), (1, 1), 0, 2**63),
    ],
)
def test_a_tensor_must_lie_in_its_storage(shape, strides, offset, claimed, write):
    """And nothing of the size claimed is allocated before that is known."""
    legacy = write.form == "legacy"
    window = make.storage("0", claimed, legacy=legacy)
    value = make.tensor(window, shape, strides, offset=offset)
    pickled = make.program(make.dictionary(weight=value))
    path = write({"weight": np.zeros(6, np.float32)}, pickled=pickled)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"does not fit|wrong size|cut short"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


DOUBLED = b"K\x01" + b"q\x00h\x00\x86" * 16  # A tuple of tuples, 2^16 numbers.
GIANT = b"\x8a\xff" + b"\xff" * 254 + b"\x7f"  # 2^2039 - 1.
ROW = b"]q\x01(" + b"N" * 3000 + b"eh\x01"  # A list of 3,000, and it once more.
PAIRS = b"](" + (make.integer(1) + make.integer(2) + b"\x86") * 2000 + b"e"
ORDERED = make.function("collections.OrderedDict")
TENSOR = make.function("torch._utils._rebuild_tensor_v2")


def tensor_of(shape, *, legacy):
    window = make.storage("0", 6, legacy=legacy)
    return TENSOR + make.group(window, make.integer(0), shape, shape) + b"R"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (DOUBLED, "a tensor whose shape is none"),
        (b"(" + GIANT * 1000 + b"t", "a tensor whose shape is none"),
        (b"(" + b"K\x01" * 100 + b"t", "a tensor whose shape is none"),
    ],
    ids=["doubled", "giant", "many"],
)
def test_a_shape_is_bounded_before_it_is_shown_or_multiplied(body, message, write):
    value = tensor_of(body, legacy=write.form == "legacy")
    refused(write(pickled=make.program(make.dictionary(weight=value))), message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (DOUBLED + make.text("name") + b"\x93", "whose name is no text"),
        (make.text("torch") + DOUBLED + b"\x93", "whose name is no text"),
        (ORDERED + b"(](" + ROW + b"h\x01" * 3000 + b"etR", "an item that is no pair"),
        (ORDERED + b"(" + make.text("ab") + b"tR", "a dict of no list"),
        (
            PAIRS + b"q\x02" + (ORDERED + b"(h\x02tR") * 600,
            "more than 1048576 instructions or items",
        ),
        (b"](" + b"N" * (1 << 20) + b"e", "more than 1048576 instructions or items"),
    ],
    ids=["module", "name", "rows", "text", "dictionaries", "instructions"],
)
def test_what_a_memo_repeats_is_bounded(body, message, write):
    refused(write(pickled=make.program(body)), message)


def refused(path, message):
    """Refused with a message that can be read, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message) as error:
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("shape", "strides"), [((0, 2**60), (1, 1)), ((0, 2**31, 2**31), (1, 1, 1))]
)
def test_an_empty_tensor_beyond_any_array_is_refused(shape, strides, write):
    window = make.storage("0", 6, legacy=write.form == "legacy")
    pickled = make.program(make.dictionary(a=make.tensor(window, shape, strides)))
    refused(write({"a": np.zeros(6, np.float32)}, pickled=pickled), "beyond any array")


def test_a_stride_along_one_element_does_not_matter(write):
    window = make.storage("0", 6, legacy=write.form == "legacy")
    value = make.tensor(window, (6, 1), (1, 2**63))
    path = write(
        {"a": np.arange(6, dtype=np.float32)},
        pickled=make.program(make.dictionary(a=value)),
    )
    assert read_checkpoint(path)["a"].ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_more_tensors_than_any_network_has_are_refused(tmp_path):
    """By the table's length, before a reader makes an object for each."""
    row = '"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    table = ("{" + ",".join(row % i for i in range(80_000)) + "}").encode()
    path = tmp_path / "many.safetensors"
    path.write_bytes(struct.pack("<Q", len(table)) + table)
    refused(path, "its table has .* bytes, more than 4194304")
    path = tmp_path / "many.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(60_000):
            archive.writestr(f"x/data/{i:020d}", b"")
    refused(path, "its table has .* bytes, more than 4194304")


def test_a_huge_memo_index_costs_nothing(write):
    body = make.state_program(STATE, legacy=write.form == "legacy")[2:-1]
    path = write(pickled=make.program(body + b"r" + struct.pack("<I", 2**32 - 1)))
    tracemalloc.start()
    try:
        assert set(read_checkpoint(path)) == set(STATE)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(form, tmp_path):
    whole = (FOLDER / f"checkpoint_{form}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pth.*fetch it again"):
            read_checkpoint(path)


def flipped(whole, path, *, step):
    """What a file gives with one bit of every so many bytes flipped; None: refused."""
    for position in range(0, len(whole), step):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        state = None
        with contextlib.suppress(CheckpointError):
            state = read_checkpoint(path)
        yield position, state


def test_a_zip_file_with_a_flipped_bit_is_refused_or_unharmed(tmp_path):
    """A bit may flip where nothing is kept, such as a date; data never change."""
    whole = (FOLDER / "checkpoint_zip.pth").read_bytes()
    expected = backbone.content_hash(read_checkpoint(FOLDER / "checkpoint_zip.pth"))
    refused = 0
    for position, state in flipped(whole, tmp_path / "flipped.pth", step=7):
        refused += state is None
        assert state is None or backbone.content_hash(state) == expected, position
    assert refused > len(whole) // 7 // 3


def test_a_legacy_file_with_a_flipped_bit_fails_cleanly_or_reads(tmp_path):
    """It has no checksum: what can be asked is that nothing else goes wrong."""
    whole = (FOLDER / "checkpoint_legacy.pth").read_bytes()
    refused = 0
    for _, state in flipped(whole, tmp_path / "flipped.pth", step=3):
        refused += state is None
        if state is not None:
            assert all(isinstance(value, np.ndarray) for value in state.values())
    assert refused > len(whole) // 3 // 3


def test_a_hash_in_the_name_is_checked(write, tmp_path):
    """This is what catches a flipped bit in the numbers of a legacy file."""
    whole = bytearray(write().read_bytes())
    digits = hashlib.sha256(whole).hexdigest()[:8]
    path = tmp_path / f"resnet-{digits}.pth"
    path.write_bytes(whole)
    assert set(read_checkpoint(path)) == set(STATE)
    whole[-3] ^= 4
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=f"SHA-256 begins with .*, not {digits}"):
        read_checkpoint(path)


def test_compressed_members_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    state = {"zeros": np.zeros(2**20, np.float32)}
    make.write_zip(path, state, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**14
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("y/data.pkl", b"")], "without one data.pkl"),
        ([("x/data/7", b"12345678")], None),
    ],
)
def test_members_of_an_archive(members, message, tmp_path):
    path = make.write_zip(tmp_path / "a.pth", STATE, members=members)
    if message is None:
        assert set(read_checkpoint(path)) == set(STATE)
    else:
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)


def test_a_missing_storage_is_refused(tmp_path):
    pickled = make.state_program(STATE | {"b": np.zeros(3, np.float32)})
    path = make.write_zip(tmp_path / "a.pth", STATE, pickled=pickled)
    with pytest.raises(CheckpointError, match="x/data/2 is missing"):
        read_checkpoint(path)


def test_two_storages_of_one_name_are_refused(write):
    legacy = write.form == "legacy"
    values = {
        name: make.tensor(make.storage("0", size, legacy=legacy), (2,))
        for name, size in (("a", 2), ("b", 3))
    }
    pickled = make.program(make.dictionary(**values))
    with pytest.raises(CheckpointError, match="two storages named '0'"):
        read_checkpoint(write(pickled=pickled))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"keys": ["0"]}, "list of storages"),
        ({"keys": ["0", "2"]}, "list of storages"),
        ({"little": False}, "big-endian"),
    ],
)
def test_a_wrong_legacy_header_is_refused(keywords, message, tmp_path):
    path = make.write_legacy(tmp_path / "a.pth", STATE, **keywords)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_more_behind_the_end_is_refused(tmp_path):
    path = make.write_legacy(tmp_path / "a.pth", STATE)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="goes on behind"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"<html>403 Forbidden</html>", b"\x80\x02K."])
def test_another_kind_of_file_is_refused_with_its_name(content, tmp_path):
    for name in ("page.pth", "page.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pth"):
        read_checkpoint(tmp_path / "nowhere.pth")
