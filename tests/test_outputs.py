"""What may be written where: replaced files, names, temporary files, words of names."""

import codecs
import io
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from gladjax import files, images, outputs, report
from gladjax.cli import inputs
from gladjax.report import page

KINDS = (outputs.MODEL, outputs.WEIGHTS, outputs.PAGE, outputs.PICTURE, outputs.RESULTS)
WHITE = np.full((3, 3, 3), 255, np.uint8)


def write(path, kind):
    """A file of a kind, as this program writes it (as far as its mark goes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == outputs.PICTURE:
        images.write_png(path, WHITE, software=outputs.SOFTWARE)
    elif kind == outputs.PAGE:
        page.write(path, page.document("a", []))
    elif kind == outputs.RESULTS:
        files.write_json(path, [{"active_per_position": {"a": 1.0}, "aupro": None}])
    else:
        path.write_bytes(b"\0" * 8 + b'{"__metadata__": {' + kind.mark + b"}}")


FOREIGN = {
    "photograph": lambda p: images.write_png(p, WHITE),
    "text": lambda p: p.write_text("mine"),
    "page": lambda p: p.write_text("<!doctype html><title>mine</title>"),
    "results": lambda p: p.write_text('[{"mine": 1}]'),
    "link to nothing": lambda p: p.symlink_to(p.parent / "none"),
}


# What may be replaced


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_a_file_replaces_its_own_kind_only(tmp_path, kind):
    outputs.check(tmp_path / "new" / "file", kind)
    for other in KINDS:
        path = tmp_path / f"{other.name}.x"
        write(path, other)
        assert outputs.written(path, kind) == (other == kind)
        if other == kind:
            outputs.check(path, kind)
        else:
            with pytest.raises(ValueError, match=r"is there already and no .* --force"):
                outputs.check(path, kind)
        outputs.check(path, kind, force=True)


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_foreign_files_stay(tmp_path, kind, foreign):
    path = tmp_path / "file"
    FOREIGN[foreign](path)
    with pytest.raises(ValueError, match="is there already"):
        outputs.check(path, kind)
    outputs.check(path, kind, force=True)


def test_empty_files_are_replaced_and_read_only_ones_are_not(tmp_path):
    path = tmp_path / "a"
    path.touch()
    outputs.check(path, outputs.PAGE)
    write(path, outputs.PAGE)
    path.chmod(0o444)
    with pytest.raises(ValueError, match="is read-only"):
        outputs.check(path, outputs.PAGE)
    outputs.check(path, outputs.PAGE, force=True)


def test_two_outputs_are_two_files(tmp_path):
    (tmp_path / "b").symlink_to(tmp_path / "a")
    wanted = [(tmp_path / "a", outputs.MODEL), (None, outputs.PAGE)]
    outputs.check_all(wanted, force=False)
    for other in ("a", "b", "x/../a"):
        with pytest.raises(ValueError, match="two outputs"):
            outputs.check_all([*wanted, (tmp_path / other, outputs.PAGE)], force=True)


# Whether it can be written, before the work


def test_places_that_cannot_be_written_are_named_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is no folder"):
        outputs.check(tmp_path / "file" / "m", outputs.MODEL)
    with pytest.raises(ValueError, match="not a regular file"):
        outputs.check(tmp_path, outputs.MODEL, force=True)
    with pytest.raises(OSError, match=r"a+: cannot be written \(File name too long"):
        outputs.check(tmp_path / ("a" * 300), outputs.MODEL)
    monkeypatch.setattr(os, "access", lambda *a: False)
    with pytest.raises(PermissionError, match=r"x/m: no permission to write in"):
        outputs.check(tmp_path / "x" / "m", outputs.MODEL)


def test_what_fails_later_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"a\.txt: cannot be written \(No space left"):
            page.write(tmp_path / "a.txt", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"b\.txt: cannot be written \("):
        page.write(tmp_path / "file" / "b.txt", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_name_of_the_greatest_length_is_written(tmp_path):
    for name in ("a" * 255, "\u00e4" * 127):
        page.write(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


# Temporary files of runs that were killed


WRITER = """
import sys
from gladjax import files
with files.atomic(sys.argv[1]) as file:
    print("ready", flush=True)
    sys.stdin.read()
"""


def writing(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    killed, alive = writing(tmp_path / "a"), writing(tmp_path / "b")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    foreign = tmp_path / ".gladjax-00000000-1-0123456789ab.tmp"  # Of another machine.
    mine = tmp_path / ".a.tmp"
    for path in (foreign, mine):
        path.write_text("kept")
    assert len(list(tmp_path.glob(".gladjax-*"))) == 3
    files.write_json(tmp_path / "c", 1)
    assert len(list(tmp_path.glob(".gladjax-*"))) == 2
    alive.communicate()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [foreign.name, mine.name, "b", "c"]
    )


# Names of pictures


def names(folder, paths):
    namer = outputs.Names(folder, paths)
    return [namer.next(p).relative_to(folder).as_posix() for p in paths]


def test_pictures_of_equal_names_are_all_kept(tmp_path):
    places = ["a/x.png", "b/x.png", "b/x.jpg", "b/x.jpg.png", "b/X.PNG", "a/x.png"]
    found = names(tmp_path / "out", [tmp_path / p for p in places])
    expected = ["a/x.png", "b/x.png", "b/x.jpg.png", "b/x.jpg-2.png", "b/X-2.png"]
    assert found == [*expected, "a/x-2.png"]


def test_ways_out_are_places_inside(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = names(tmp_path / "out", ["../b/i.png", "c.png", "d/../e.png"])
    assert found == ["b/i.png", "here/c.png", "here/e.png"]
    namer = outputs.Names("out", [])  # From a pipe: nothing is known before.
    assert namer.next("c.png") == pathlib.Path("out/c.png")
    outer = pathlib.Path("out", *tmp_path.parts[1:], "b", "i.png")
    assert namer.next("../b/i.png") == outer


def test_long_names_are_cut_and_stay_different(tmp_path):
    long = "\u00e4" * 125  # 250 bytes.
    found = names(tmp_path, [f"{long}.jpg", f"{long}.gif", f"{long}b.png"])
    assert len(set(found)) == 3
    assert max(len(os.fsencode(name)) for name in found) <= 255


@hypothesis.given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
@hypothesis.example(["A:", "A_", "a\\..\\b.png", "\\x"])
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_names_are_different_and_inside(tmp_path_factory, texts):
    folder = tmp_path_factory.getbasetemp() / "out"
    paths = [t for t in texts if "\0" not in t and os.path.basename(t)]
    try:
        for path in paths:
            os.fsencode(path)
    except UnicodeEncodeError:
        return
    namer = outputs.Names(folder, paths)
    found = [namer.next(path) for path in paths]
    assert len({str(name).casefold() for name in found}) == len(found)
    for name in found:
        assert folder.resolve() in name.resolve().parents


# Pictures are no photographs


def test_pictures_in_a_folder_are_not_scored_the_next_time(tmp_path):
    images.write_png(tmp_path / "a.png", WHITE)
    for name in ("maps/a.png", "b.png"):
        write(tmp_path / name, outputs.PICTURE)
    found = images.below(tmp_path)
    assert found.paths == [tmp_path / "a.png"]
    assert (
        f"1 image in {tmp_path / 'maps'} (pictures that gladjax wrote)" in found.notes
    )
    every = sorted(tmp_path.rglob("*.png"))
    chosen = images.chosen(every, tmp_path, learn=False)
    assert chosen.paths == [tmp_path / "a.png"]
    assert chosen.notes == [f"2 images below {tmp_path} (pictures that gladjax wrote)"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    images.write_png(tmp_path / "a.png", WHITE)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = images.below(tmp_path)
    assert found.paths == [tmp_path / "a.png"]
    assert found.notes == [f"{tmp_path / 'closed'} (Permission denied)"]


# Words


def test_no_name_forges_a_line():
    name = "a\nnormal  b.png\x1b[2K\u2028\u202e\udce9.png"
    text = outputs.printable(name)
    assert text.isprintable()
    text.encode("utf-8")
    assert outputs.printable("K\u00fcche \u6f22 1.png") == "K\u00fcche \u6f22 1.png"


def test_a_page_holds_a_name_of_any_bytes(tmp_path):
    report.write(tmp_path / "a.html", page.document("b\udce9.png", []))
    assert "b\\udce9.png" in (tmp_path / "a.html").read_text()
    assert outputs.written(tmp_path / "a.html", outputs.PAGE)


# Files that come one by one


@hypothesis.given(
    st.lists(st.binary(max_size=9), max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\0"]),
    st.booleans(),
    st.integers(1, 12),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_list_of_names_is_read_in_any_pieces(names, end, marked, size):
    names = [name.translate(None, b"\0\r\n") for name in names]
    hypothesis.assume(not any(name.startswith(codecs.BOM_UTF8) for name in names))
    hypothesis.assume(not marked or names)
    whole = codecs.BOM_UTF8 * marked + end.join([*names, b""])

    class Pieces(io.BytesIO):
        def read(self, _):
            return super().read(size)

    buffer = types.SimpleNamespace(raw=Pieces(whole))
    with mock.patch.object(sys, "stdin", types.SimpleNamespace(buffer=buffer)):
        found = list(inputs._listed())
    texts = [os.fsdecode(name) for name in names]
    assert found == [pathlib.Path(text) for text in texts if text.strip()]


def test_an_image_is_there_before_the_next_name(tmp_path):
    answered = []

    def slowly():
        for i in range(3):
            while len(answered) < i:  # The next name comes after the last answer.
                time.sleep(0.01)
            yield tmp_path / f"{i}"

    def read(path):
        if path.name == "1":
            raise images.ImageError("bad")
        return path.name

    for path, outcome in images.arriving(slowly(), read=read):
        answered.append((path.name, str(outcome)))
    assert answered == [("0", "0"), ("1", "bad"), ("2", "2")]


def test_waiting_can_be_ended_and_errors_of_the_names_come_out():
    def forever():
        yield "a"
        time.sleep(60)

    def enough():
        raise KeyboardInterrupt

    begun = time.monotonic()
    found = images.arriving(forever(), read=str, waiting=enough)
    assert next(found)[1] == "a"
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert time.monotonic() - begun < 20

    def broken():
        yield "a"
        raise OSError("pipe")

    found = images.arriving(broken(), read=str)
    next(found)
    with pytest.raises(OSError, match="pipe"):
        next(found)
    with pytest.raises(ValueError, match="depth"):
        next(images.arriving([], read=str, depth=0))


def test_no_more_is_read_than_the_depth_allows():
    seen = []

    def many():
        for i in range(100):
            seen.append(i)
            yield str(i)

    found = images.arriving(many(), read=str, depth=2)
    for _ in range(3):
        next(found)
    time.sleep(0.3)
    assert len(seen) <= 3 + 2 + 2
    found.close()
