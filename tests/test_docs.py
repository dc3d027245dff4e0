"""The site: its notebooks run, its pages name what is there, and it can be built."""

import dataclasses
import functools
import importlib.util
import pathlib
import pkgutil
import re
import shlex
import subprocess
import sys
import warnings

import pytest
import tiny
from click.testing import CliRunner

import gladjax
from gladjax import backbone, cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
HEAD = "---\njupyter:\n  jupytext:\n    text_representation:\n      extension: .md\n"


@functools.cache
def network():
    """The finer of the tiny network's two maps: half as many programs to compile."""
    whole = tiny.network()
    return dataclasses.replace(whole, layers=("fine",), dims=whole.dims[:1])


def shell(lines):
    """Runs the commands of a block that are gladjax's."""
    commands = [shlex.split(line) for line in lines.splitlines()]
    assert all(name in ("gladjax", "pip") for name, *_ in commands), lines
    for _, *words in (one for one in commands if one[0] == "gladjax"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = CliRunner().invoke(cli.cli, words)
        assert result.exit_code == 0, (words, result.output, result.exception)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_beginning_to_end(path, tmp_path, monkeypatch):
    """With a tiny network in place of any that it loads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbone, "load", lambda *_, **__: network())
    text = path.read_text("utf-8")
    assert text.startswith(HEAD)
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("\n```") / 2 >= 4
    space = {"__name__": "__main__"}
    for block in blocks:
        kind, code = block.groups()
        if kind == "sh":
            shell(code)
            continue
        assert kind == "python"
        before = "\n" * (text.count("\n", 0, block.start()) + 1)
        exec(compile(before + code, str(path), "exec"), space)
    assert "assert" in text or list(tmp_path.iterdir())


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r": (\S+\.md)$", text, re.M)
    there = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(there)
    assert len(NOTEBOOKS) == 6


def test_the_reference_has_every_public_module_once():
    pages = "\n".join(p.read_text("utf-8") for p in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^::: gladjax\.(\w+)$", pages, re.M)
    assert sorted(named) == sorted([*gladjax.__all__, "report", "streaming"])


def test_pages_name_what_is_there():
    """Every link to a function, and every link to another page."""
    for path in DOCS.rglob("*.md"):
        text = path.read_text("utf-8")
        for name in re.findall(r"\]\[gladjax\.([\w.]+)\]", text):
            pkgutil.resolve_name(f"gladjax.{name}")
        for link in re.findall(r"\]\(([^)#:]+\.md)", text):
            assert (path.parent / link).is_file(), (path, link)


@pytest.mark.parametrize("number", [1, 3, 9, 10, 12])
def test_the_equations_of_the_paper_are_beside_their_functions(number):
    method = (DOCS / "method.md").read_text("utf-8")
    headings = re.findall(r"^## .*\((Eqs?\. [^)]+)\)$", method, re.M)
    ranges = [[int(n) for n in re.findall(r"\d+", heading)] for heading in headings]
    assert any(min(one) <= number <= max(one) for one in ranges)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="no MkDocs here")
def test_the_site_is_built(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*build, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "mixtures.html").read_text("utf-8")
    assert 'id="gladjax.kmle.fit"' in page
