"""Atomic files, JSON, and paths that stay inside."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from gladjax import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with files.atomic(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with files.atomic(path, mode="w") as file:
            file.write("new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_killed_writer_leaves_no_file_under_the_name(tmp_path):
    path = tmp_path / "a.bin"
    program = (
        "import sys; from gladjax import files\n"
        f"with files.atomic({str(path)!r}) as f:\n"
        "  f.write(b'x' * 100000); f.flush(); print('ready', flush=True)\n"
        "  sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not path.exists()


def test_interrupted_writer_cleans_up(tmp_path):
    path = tmp_path / "a.bin"
    program = (
        "import time; from gladjax import files\n"
        f"with files.atomic({str(path)!r}) as f:\n"
        "  f.write(b'x'); print('ready', flush=True)\n"
        "  time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.readline()
    time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert child.returncode != 0
    assert names(tmp_path) == []


def test_text_is_utf8_with_plain_line_ends(tmp_path):
    with files.atomic(tmp_path / "a", mode="w") as file:
        file.write("ä\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa4\n"


@pytest.mark.parametrize("mode", ["r", "a", "xb", "w+"])
def test_other_modes_are_refused(tmp_path, mode):
    with (
        pytest.raises(ValueError, match="mode"),
        files.atomic(tmp_path / "a", mode=mode),
    ):
        pass


def test_folders_and_devices_are_not_replaced(tmp_path):
    for path in (tmp_path, pathlib.Path(os.devnull)):
        with pytest.raises(ValueError, match="regular"), files.atomic(path):
            pass
    assert pathlib.Path(os.devnull).is_char_device()


def test_a_symbolic_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with files.atomic(tmp_path / "link", mode="w") as file:
        file.write("new")
    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()


class Pair(NamedTuple):
    first: int
    second: float


def test_json_is_stable_and_understands_numpy(tmp_path):
    value = {
        "b": np.float32(0.5),
        "a": [np.int64(3), None, True, float("nan")],
        "c": np.arange(2.0),
        "p": pathlib.PurePosixPath("x/y"),
        "t": Pair(1, 2.0),
    }
    files.write_json(tmp_path / "1.json", value)
    files.write_json(tmp_path / "2.json", dict(reversed(value.items())))
    text = (tmp_path / "1.json").read_text()
    assert text == (tmp_path / "2.json").read_text()
    assert text.endswith("}\n")
    assert files.read_json(tmp_path / "1.json") == {
        "a": [3, None, True, None],
        "b": 0.5,
        "c": [0.0, 1.0],
        "p": "x/y",
        "t": [1, 2.0],
    }


def test_what_json_cannot_hold_is_refused_by_place(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match=r"value\['a'\]\[1\] is inf"):
        files.write_json(path, {"a": [0.0, np.inf]})
    with pytest.raises(TypeError, match=r"value\['a'\] is a complex"):
        files.write_json(path, {"a": 1j})
    with pytest.raises(TypeError, match="the key 1"):
        files.write_json(path, {1: 1})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[NaN]", b"[Infinity]", b"\xff", b"[" * 100_000, b"1 2"]
)
def test_bad_json_names_the_file(tmp_path, text):
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"bad\.json"):
        files.read_json(tmp_path / "bad.json")


def test_missing_and_huge_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "big.json").write_text("[1, 2, 3]")
    with pytest.raises(ValueError, match="limit of 4"):
        files.read_json(tmp_path / "big.json", max_bytes=4)


@hypothesis.given(st.binary(max_size=200))
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_bytes_are_json_or_a_value_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(data)
    try:
        value = files.read_json(path)
        message = "fuzz.json"
        assert json.loads(json.dumps(value, allow_nan=False)) == value
    except ValueError as error:
        message = str(error)
    assert "fuzz.json" in message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@hypothesis.given(JSON)
@hypothesis.settings(max_examples=100, deadline=None)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "a\0b",
        "..\\a",
        "C:\\a",
        "C:a",
    ],
)
def test_ways_out_of_a_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"path below|leads out|itself"):
        files.inside(tmp_path, name)


def test_a_link_out_of_a_folder_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out"):
        files.inside(out, "link/a.png")
    (out / "loop").symlink_to(out / "loop")
    with pytest.raises(ValueError, match="leads out"):
        files.inside(out, "loop/a.png")


@hypothesis.given(st.text(max_size=30))
@hypothesis.settings(max_examples=300, deadline=None)
def test_whatever_is_accepted_stays_inside(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "folder"
    try:
        path = files.inside(folder, name)
    except ValueError:
        return
    assert folder.resolve() in path.resolve().parents


def test_scratch_has_no_name_and_goes_with_its_array(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = files.scratch((3, 5), np.dtype(np.float32))
    assert isinstance(array, np.memmap)
    assert not array.any()
    array[1] = 7
    assert array.reshape(-1, 1)[5:10].sum() == 35
    if os.name == "posix":
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fallocate", [True, False])
def test_a_full_disk_is_told_of_before_anything_is_written(
    tmp_path, monkeypatch, fallocate
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if fallocate:
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        assert files.scratch((1 << 19,), np.dtype(np.float32)).nbytes == 1 << 21
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match=r"no room for 2 MB .*No space.*TMPDIR") as caught:
        files.scratch((1 << 19,), np.dtype(np.float32))
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())
