"""What pip and a user's type checker are told of the package."""

import json
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_annotations_are_for_users_too():
    """Type checkers read those of an installed package only beside this file."""
    assert (ROOT / "gladjax" / "py.typed").read_bytes() == b""
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_every_python_is_named_and_tested():
    """By pip's limit, by the classifiers and by the matrix of the workflow."""
    first = int(re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])[1])
    expected = [f"3.{minor}" for minor in range(first, 15)]
    prefix = "Programming Language :: Python :: "
    named = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if prefix in c]
    assert [version for version in named if "." in version] == expected
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert json.loads(re.search(r"^ +python: (\[.*\])$", workflow, re.M)[1]) == expected
    assert "python-version: ${{ matrix.python }}" in workflow
    assert re.search(r"^ +- run: \.ci/run$", workflow, re.M)


def test_there_is_a_link_to_the_paper():
    assert PROJECT["urls"]["Paper"].startswith("https://")


def test_every_dependency_is_used():
    """One that nothing imports is what a user installs in vain."""
    code = "\n".join(p.read_text("utf-8") for p in (ROOT / "gladjax").rglob("*.py"))
    modules = {"pillow": "PIL"}
    for line in PROJECT["dependencies"]:
        name = re.match(r"[\w-]+", line)[0]
        assert re.search(rf"^\s*(import|from) {modules.get(name, name)}\b", code, re.M)


def test_every_test_that_a_report_names_is_there():
    """``file.py::test`` is in that file, ``::test`` in one that its report names."""
    for path in (ROOT / "experiments").glob("reports-*.md"):
        report = path.read_text("utf-8")
        found = re.findall(r"`(test_\w+\.py)?::(test_\w+)`", report)
        assert found
        files = set(re.findall(r"\btest_\w+\.py", report))
        for name, test in found:
            texts = [(ROOT / "tests" / one).read_text("utf-8") for one in files]
            if name:
                texts = [(ROOT / "tests" / name).read_text("utf-8")]
            assert any(f"def {test}(" in text for text in texts), (path.name, test)


def test_the_readme_names_the_patent():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "FR3133472 B1" in readme
    assert "WO2023170303" in readme
