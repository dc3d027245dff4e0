"""The command line: what it replaces, when it answers, how it ends."""

import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings

import click
import jax
import numpy as np
import PIL.Image
import pytest
import tiny
from test_cli import DRIVER, FEW, environment, objects, run, tiny_network  # noqa: F401

from gladjax import cli, datasets, detector, images, io, outputs, plots, scoring
from gladjax.cli import interruption, options


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    datasets.write_synthetic(root, num_train=6, num_good=3, num_bad=1, size=40)
    return root / "texture"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    scores = np.array([500.0 + i for i in range(19)])
    fitted = dataclasses.replace(tiny.fitted(), calibration=scores)
    io.save(path, fitted, false_positive_rate=0.05)
    return path


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(*arguments, **chosen):
    """Runs the command in another process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | chosen
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        **{"env": environment()} | pipes,
    )


# What is replaced


def test_no_output_replaces_what_it_must_not(category, model, tmp_path):
    photo, page = tmp_path / "photo.png", tmp_path / "mine.html"
    images.write_png(photo, np.zeros((9, 9), np.uint8))
    page.write_text("mine")
    before = {**contents(tmp_path), **contents(model.parent)}
    for path in (photo, page):
        for command in (
            ("fit", category / "train", "--out", path),
            ("fit", category / "train", "--out", tmp_path / "m", "--report", path),
            ("update", model, category / "train", "--output", path),
            ("evaluate", model, category, "--report", path),
            ("report", model, "--out", path),
            ("report", model, category, "--out", path),
        ):
            error, out, _ = run(*command)
            assert "is there already" in str(error), command
            assert out == ""
    error, *_ = run("report", model, "--out", model)
    assert "no page that gladjax wrote" in str(error)
    same = tmp_path / "m"
    error, *_ = run("fit", category / "train", "--out", same, "--report", same)
    assert "two outputs have this name" in str(error)
    assert {**contents(tmp_path), **contents(model.parent)} == before
    code, _, err = run("report", model, "--out", page, "--force")
    assert code == 0, err
    assert outputs.written(page, outputs.PAGE)
    assert run("report", model, "--out", page)[0] == 0


def test_where_to_write_has_one_name_and_the_other_is_taken():
    """``--out`` in the help of every command, ``--output`` is the same."""
    found = set()
    for name in cli.COMMANDS:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        for one in [command, *getattr(command, "commands", {}).values()]:
            words = {word for option in one.params for word in option.opts}
            assert "--output" not in words, one.name
            if "--out" not in words:
                continue
            found.add(one.name)
            for given in ("--out", "--output"):
                context = click.Context(one, resilient_parsing=True)
                one.parse_args(context, [given, "somewhere"])
                assert context.params["out"] == pathlib.Path("somewhere")
            help_ = one.get_help(click.Context(one))
            assert "--out " in help_
            assert "--output" not in help_
    assert found >= {"demo", "fit", "update", "evaluate", "report", "convert"}


def test_results_of_somebody_else_stay(category, model, tmp_path):
    results = tmp_path / "results.json"
    results.write_text("[1, 2]")
    error, *_ = run("evaluate", model, category, "--output", tmp_path)
    assert "results.json: is there already" in str(error)
    assert results.read_text() == "[1, 2]"
    for more in (["--force"], []):
        code, _, err = run("evaluate", model, category, "--output", tmp_path, *more)
        assert code == 0, err
    assert outputs.written(results, outputs.RESULTS)


def test_heat_maps_replace_no_image_and_are_none(category, model, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for path in (category / "test" / "good").iterdir():
        (good / path.name).write_bytes(path.read_bytes())
    before = contents(good)
    error, out, _ = run("score", model, good, "--heatmaps", good, "--jsonl")
    assert "is there already and no picture that gladjax wrote" in str(error)
    assert out == ""
    assert contents(good) == before
    maps = good / "maps"
    for _ in range(2):  # The second time they are replaced, and not scored.
        code, out, err = run("score", model, good, "--heatmaps", maps, "--jsonl")
        assert code == 0, err
        assert len(objects(out)) == len(before)
        assert len(list(maps.iterdir())) == len(before)
    assert "left out: 3 images" in err
    assert before.items() <= contents(good).items()
    error, *_ = run("score", model, maps / "000.png", "--heatmaps", maps)
    assert "would replace an image that is scored" in str(error)
    code, out, _ = run("score", model, "-", "--heatmaps", good, stdin=f"{good}/000.png")
    assert code == 0  # A place from a pipe is below the current folder.


def test_an_evaluation_draws_every_image(category, model, tmp_path):
    """Stems that appear twice in a kind, in two folders and in two formats."""
    rows = ["image,label,kind"]
    places = ["lineA/000.png", "lineB/000.png", "lineB/000.bmp", "lineB/000.bmp.png"]
    good = category / "test" / "good" / "000.png"
    for label, kind in ((0, "good"), (1, "spot")):
        for place in places:
            path = tmp_path / kind / place
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.open(good).save(path)
            rows.append(f"{kind}/{place},{label},{kind}")
    (tmp_path / "parts.csv").write_text("\n".join(rows))
    code, _, err = run("evaluate", model, tmp_path / "parts.csv", "--heatmaps",
                       "--output", tmp_path / "out")  # fmt: skip
    assert code == 0, err
    found = {
        p.relative_to(tmp_path / "out" / "heat_maps").as_posix()
        for p in (tmp_path / "out").rglob("*.png")
    }
    names = [*places[:3], "lineB/000.bmp-2.png"]
    names[2] += ".png"
    assert found == {f"{kind}/{name}" for kind in ("good", "spot") for name in names}


# Answers as they are asked for


def test_a_list_is_answered_line_by_line(category, model):
    arguments = ("score", model, "-", "--jsonl", "--quiet")
    with start(*arguments, stdin=subprocess.PIPE) as process:
        for path in sorted((category / "test" / "good").iterdir()):
            process.stdin.write(f"{path}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["image"] == str(path)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_wait_with_its_code(category, model, number, code):
    process = start("score", model, "-", "--jsonl", "--quiet", stdin=subprocess.PIPE)
    process.stdin.write(f"{category}/test/good/000.png\n".encode())
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"Fatal" not in err
    assert b"Traceback" not in err


def test_a_signal_ends_a_write_that_nobody_takes(category, model):
    good = category / "test" / "good" / "000.png"
    with start("score", model, *[good] * 2000, "--jsonl", "--quiet") as process:
        process.stdout.readline()
        time.sleep(2)  # By now the pipe is full.
        process.terminate()
        assert process.wait(60) == 143


ODD = [b"caf\xe9.png", b"\xba\xba.png", "\u6f22.png".encode(), b"a\x1b[2Kb.png",
       b"a\fb.png", "a\u2028b.png".encode(), b"a\nb.png"]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_names_of_any_bytes_are_answered(category, model, tmp_path, encoding):
    folder = os.fsencode(tmp_path)
    good = (category / "test" / "good" / "000.png").read_bytes()
    for name in ODD:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(good)
    listed = b"\0".join(os.path.join(folder, name) for name in ODD)
    strict = {**environment(), "PYTHONIOENCODING": f"{encoding}:strict"}
    process = start("score", model, "-", "--quiet", "--heatmaps", tmp_path / "maps",
                    stdin=subprocess.PIPE, env=strict)  # fmt: skip
    out, err = process.communicate(listed, timeout=120)
    assert process.returncode == 0, err
    lines = out.decode(encoding).splitlines()
    assert len(lines) == len(ODD)
    assert all(line.isprintable() for line in lines)
    pictures = [p for p in (tmp_path / "maps").rglob("*") if p.is_file()]
    assert len(pictures) == len(ODD)


def test_lists_of_other_programs_are_read(category, model):
    path = category / "test" / "good" / "000.png"
    text = f"\ufeff{path}\r\n\n{path}"
    code, out, _ = run("score", model, "-", "--jsonl", stdin=text.encode())
    assert code == 0
    assert [f["image"] for f in objects(out)] == [str(path)] * 2
    assert run("score", model, "-", stdin=b"")[0] == 2
    assert run("score", model, "-", stdin=b"x" * 2**17)[0] == 2


def test_a_page_is_written_whatever_names_there_are(category, model, tmp_path):
    folder = os.fsencode(tmp_path / "set")
    for kind in (b"good", b"spot"):
        place = os.path.join(folder, b"test", kind)
        os.makedirs(place)
        good = (category / "test" / "good" / "000.png").read_bytes()
        with open(os.path.join(place, b"caf\xe9.png"), "wb") as file:
            file.write(good if kind == b"good" else good + b" ")
    code, _, err = run("evaluate", model, tmp_path / "set", "--report",
                       tmp_path / "a.html")  # fmt: skip
    assert code == 0, err
    assert "caf\\udce9.png" in (tmp_path / "a.html").read_text(encoding="utf-8")


# Memory


def test_heat_maps_of_new_sizes_compile_nothing(caplog):
    fitted = tiny.fitted()
    detector.score(fitted, tiny.pictures(1)[0])
    with jax.log_compiles():
        for size in (41, 42, 57, 300):
            image = np.zeros((size, size + 3, 3), np.uint8)
            assert detector.score(fitted, image).heat_map.shape == image.shape[:2]
    assert "ompil" not in caplog.text


def test_enlarging_is_upsampling(rng):
    values = rng.normal(size=(7, 9)).astype(np.float32)
    for shape in ((7, 9), (20, 31), (3, 4), (1, 50), (14, 2)):
        expected = scoring.upsample(values, shape)
        found = scoring.enlarge(values, shape)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 2_000_000), (2_000_000, 1)])
def test_long_images_take_no_more_memory_than_their_pixels(shape):
    image = np.full((*shape, 3), 99, np.uint8)
    tracemalloc.start()
    found = detector.score(tiny.fitted(), image)
    picture = plots.scored_picture(image, found.heat_map, found.score)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500e6
    assert max(picture.shape) <= 2 * plots.MAX_SIDE + 64


def test_long_images_are_scored_and_the_limit_is_an_option(model, tmp_path):
    path = tmp_path / "long.png"
    images.write_png(path, np.zeros((1, 100_000), np.uint8))
    chosen = ["score", model, path, "--jsonl", "--heatmaps", tmp_path / "maps"]
    code, out, _ = run(*chosen)
    assert code == 0
    assert images.shape(objects(out)[0]["heat_map"])[1] == 2 * plots.MAX_SIDE + 4
    code, out, _ = run(*chosen, "--max-pixels", 99_999)
    assert code == 3
    assert "--max-pixels" in objects(out)[0]["error"]
    assert run(*chosen)[0] == 0  # The limit was that of one command.


def test_the_limit_reaches_pillow():
    before = PIL.Image.MAX_IMAGE_PIXELS
    with images.pixel_limit(2 * before):
        assert 2 * before == PIL.Image.MAX_IMAGE_PIXELS
    assert before == PIL.Image.MAX_IMAGE_PIXELS


# How it ends


@pytest.fixture
def installed():
    kept = {number: signal.getsignal(number) for number in interruption.CODES}
    shown = warnings.showwarning
    interruption.install()
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
    warnings.showwarning = shown
    interruption._seen.clear()


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
@pytest.mark.usefixtures("installed")
def test_a_lost_signal_is_found_at_the_next_piece(monkeypatch, number, error):
    """What a handler raises in a callback of the garbage collector is dropped."""
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)

    def callback(phase, info):
        if not interruption._seen:
            os.kill(os.getpid(), number)

    gc.callbacks.append(callback)
    try:
        with contextlib.suppress(error):
            gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert interruption.code() == interruption.CODES[number]
    with pytest.raises(error):
        options.Progress(quiet=True)("stage", 1, 2)


def work(numbers, done, *, ask):
    """Three pieces of work, in each of which a signal comes."""
    with interruption.between():
        for number in numbers:
            os.kill(os.getpid(), number)
            done.append(number)
            if ask:
                interruption.check()


@pytest.mark.usefixtures("installed")
def test_a_signal_waits_for_the_end_of_an_image():
    done = []
    with pytest.raises(SystemExit):
        work([signal.SIGTERM], done, ask=True)
    interruption.install()
    with pytest.raises(KeyboardInterrupt):  # The end asks too.
        work([signal.SIGINT], done, ask=False)
    interruption.install()
    with pytest.raises(KeyboardInterrupt):  # The second one does not wait.
        work([signal.SIGINT, signal.SIGINT], done, ask=False)
    assert done == [signal.SIGTERM, signal.SIGINT, signal.SIGINT]


@pytest.mark.slow
def test_no_signal_of_many_is_lost(category, model, tmp_path):
    rng = np.random.default_rng(0)
    paths = sorted((category / "test" / "good").iterdir()) * 400
    listed = "\n".join(map(str, paths)).encode()
    for number in range(6):  # Of thirty, three were lost before.
        sent = (signal.SIGTERM, signal.SIGINT)[number % 2]
        with (tmp_path / "lines").open("wb") as file:
            process = start("score", model, "-", "--jsonl", "--quiet", stdout=file,
                            stdin=subprocess.PIPE)  # fmt: skip
            writer = threading.Thread(target=_write, args=(process, listed))
            writer.start()
            while not (tmp_path / "lines").stat().st_size:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(sent)
            with process:
                err = process.stderr.read()
                writer.join()
            assert process.returncode == interruption.CODES[sent], err
        assert b"ignored" not in err


def _write(process, data):
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(data)
        process.stdin.close()


def test_the_command_runs_in_a_thread(model, capsys):
    codes = []

    def work():
        try:
            cli.main(["report", str(model), "--help"])
        except SystemExit as end:
            codes.append(end.code)

    shown = warnings.showwarning
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    warnings.showwarning = shown
    assert codes == [0]
    assert "Usage" in capsys.readouterr().out


SHELL = {
    "output closed": ("score {m} {i} >&-", 1, "standard output is closed"),
    "input closed": ("score {m} - <&-", 2, "standard input is closed"),
    "disk full": ("score {m} {i} >/dev/full", 1, "No space left"),
    "no such accelerator": ("score {m} {i}", 1, "error: "),
    "no home": ("--help", 0, ""),
}


@pytest.mark.parametrize("kind", SHELL)
def test_trouble_outside_is_a_line(category, model, tmp_path, kind):
    words, code, told = SHELL[kind]
    if "/dev/full" in words and not pathlib.Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    image = category / "test" / "good" / "000.png"
    extra = {"HOME": "/nowhere", "XDG_CACHE_HOME": ""} if kind == "no home" else {}
    if kind == "no such accelerator":
        if jax.default_backend() == "gpu":
            pytest.skip("there is one here")
        extra = {"JAX_PLATFORMS": "cuda"}
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    words = words.format(m=model, i=image)
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} {script} {words}"],
        capture_output=True, text=True, check=False,
        env={**environment(), **extra, "PYTHONPATH": os.pathsep.join(
            [os.path.dirname(__file__), str(pathlib.Path(cli.__file__).parents[2])])},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 8


def test_a_file_without_permission_is_not_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    images.write_png(path, np.zeros((3, 3), np.uint8))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(PIL.Image, "open", denied)
    for read in (images.read, images.shape):
        with pytest.raises(
            images.ImageError, match=r"a\.png: no permission to read it"
        ):
            read(path)


def test_a_model_without_statistics_names_the_option(category, model, tmp_path):
    error, *_ = run(
        "update", model, category / "train", "--out", tmp_path / "m", "--quiet"
    )
    assert "--keep-statistics" in str(error)
    assert FEW
