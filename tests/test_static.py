"""What the linters find: `pytest` alone runs every check."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
HERE = [sys.executable, "-m"]
CHECKS = {
    "ruff check": [*HERE, "ruff", "check", "--no-cache", "."],
    "ruff format": [*HERE, "ruff", "format", "--no-cache", "--check", "."],
    "pyright": [*HERE, "pyright", "--pythonpath", sys.executable],
    # The tool is a script beside the interpreter; as a module it has no entry point.
    "lint-imports": [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as main; main()",
        "--no-cache",
    ],
}


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_found_by(name):
    done = subprocess.run(
        CHECKS[name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
