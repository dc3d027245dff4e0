"""What is kept between runs."""

import os
import subprocess
import sys
import warnings

import children
import click
import jax
import numpy as np
import pytest
from click.testing import CliRunner

from gladjax import cache, cli, em, kmle

TWICE = """
import time
from gladjax import cache
kept = cache.keep_programs()
import jax, jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((7, 7))).block_until_ready()
print(kept, sum("cache_hits" in name for name in found) > 0)
"""


def run(code, folder, **more):
    out, err = children.run(code, folder, **more)
    return out.split(), err


@pytest.mark.parametrize("first", ["", "import jax\n"])
def test_a_program_is_compiled_once(tmp_path, first):
    place = str(tmp_path / cache.PROGRAMS)
    assert run(first + TWICE, tmp_path)[0] == [place, "False"]
    assert run(first + TWICE, tmp_path)[0] == [place, "True"]


def test_the_environment_has_the_last_word(tmp_path):
    other = tmp_path / "other"
    out, _ = run(TWICE, tmp_path / "mine", JAX_COMPILATION_CACHE_DIR=str(other))
    assert out[0] == str(other)
    out, _ = run(TWICE, tmp_path / "mine", JAX_ENABLE_COMPILATION_CACHE="false")
    assert out == ["None", "False"]
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    out, err = run(TWICE, blocked)
    assert out == ["None", "False"]
    assert not err


def test_programs_beyond_the_limit_go_oldest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LARGEST", 25)
    for i in range(4):
        path = tmp_path / f"p{i}"
        path.write_bytes(bytes(10))
        os.utime(path, (i, i))
    cache._prune(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p2", "p3"]


def test_the_command_shows_and_clears(tmp_path, monkeypatch):
    monkeypatch.setenv("GLADJAX_CACHE", str(tmp_path))
    kept = tmp_path / cache.PROGRAMS
    kept.mkdir()
    (kept / "one").write_bytes(bytes(3_000_000))
    (tmp_path / "net.pth").write_bytes(b"x")
    shown = CliRunner().invoke(cli.cli, ["cache"]).stdout
    assert "programs: 1 files, 3.0 MB" in shown
    cleared = CliRunner().invoke(cli.cli, ["cache", "--clear"]).stdout
    assert "removed 3.0 MB" in cleared
    assert not list(kept.iterdir())
    assert (tmp_path / "net.pth").exists()


def test_a_program_that_is_damaged_is_compiled_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GLADJAX_CACHE", str(tmp_path))
    kept = tmp_path / cache.PROGRAMS
    kept.mkdir()
    (kept / "one").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cli._show_warning("Error reading persistent compilation cache entry", Warning)
    assert not list(kept.iterdir())
    assert not capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, gladjax.cli\n"
        "from click.testing import CliRunner\n"
        "text = CliRunner().invoke(gladjax.cli.cli, ['--help']).stdout\n"
        "assert 'Commands:' in text\n"
        "print(*({'jax', 'flax', 'scipy', 'skimage'} & set(sys.modules)), 'end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["end"]


def test_commands_are_listed_as_they_call_themselves():
    for name, (_, short) in cli.COMMANDS.items():
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        assert command.name == name
        # The list is written by hand, so that it can be shown without importing.
        assert set(short.split()[:1]) <= set(command.get_short_help_str(200).split())


def test_programs_in_memory_go_when_there_are_too_many(monkeypatch, tmp_path):
    program = jax.jit(lambda x: x + 1)
    program(np.float32(0))
    monkeypatch.setattr(cache, "MAPPED", tmp_path / "maps")
    assert not cache.release_programs(maps=0)  # No such file: not Linux.
    cache.MAPPED.write_text("a map\n" * 3)
    assert not cache.release_programs(maps=3)
    assert program._cache_size() == 1
    assert cache.release_programs(maps=2)
    assert program._cache_size() == 0
    assert program(np.float32(1)) == 2


@pytest.mark.parametrize("fit", [kmle.fit, em.fit])
def test_fits_release_programs(monkeypatch, fit):
    asked = []
    monkeypatch.setattr(cache, "release_programs", lambda: asked.append(1))
    fit(jax.random.key(0), np.eye(4, dtype=np.float32), num_components=1)
    assert asked
