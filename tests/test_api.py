"""House rules, read off every public signature of the package."""

import importlib
import inspect
import pathlib
import pkgutil

import pytest

import gladjax

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Commands are called by their users' shells, and kernels by Numba.
OTHER_RULES = ("gladjax.kernels", "gladjax.cli", "gladjax.__main__")


def modules():
    found = [gladjax.__name__]
    for module in pkgutil.walk_packages(gladjax.__path__, "gladjax."):
        hidden = any(part.startswith("_") for part in module.name.split("."))
        if not hidden and not module.name.startswith(OTHER_RULES):
            found.append(module.name)
    return found


def load(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:  # An optional dependency that is not here.
        pytest.skip(f"{name}: {error}")


def own(module, kind):
    """What a module defines itself and does not hide."""
    for name, value in vars(module).items():
        if kind(value) and value.__module__ == module.__name__ and name[:1] != "_":
            yield name, value


def functions(module):
    """Public functions, and public methods of public classes."""
    for name, function in own(module, inspect.isfunction):
        yield name, function
    for name, cls in own(module, inspect.isclass):
        for method, function in vars(cls).items():
            if not inspect.isfunction(function) or function.__name__ == "<lambda>":
                continue
            public = method == "__call__" or not method.startswith("_")
            if public and function.__module__ == module.__name__:
                yield f"{name}.{method}", function


def parameters(function):
    every = list(inspect.signature(function).parameters.values())
    method = "." in function.__qualname__.rsplit("<locals>.", 1)[-1]
    return every[1:] if method and every[0].name in ("self", "cls") else every


@pytest.fixture(params=modules())
def module(request):
    return load(request.param)


def assert_none(found, rule):
    assert not found, f"{rule}: {', '.join(found)}"


def test_randomness_comes_first(module):
    late = [
        name
        for name, function in functions(module)
        for at, p in enumerate(parameters(function))
        if p.name in ("key", "rng") and at > 0
    ]
    assert_none(late, "randomness is the first parameter")
    # `rng` is NumPy's generator, in what runs on the host only.
    aliases = {"rng_key", "prng", "prng_key", "random_state", "generator"}
    named = [
        f"{name}({p.name})"
        for name, function in functions(module)
        for p in parameters(function)
        if p.name in aliases
    ]
    assert_none(named, "randomness is called `key`")


def test_options_are_keyword_only(module):
    positional = [
        f"{name}({p.name})"
        for name, function in functions(module)
        for p in parameters(function)
        if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY
        if name != "main"  # Called by a shell, or with a list of words.
    ]
    assert_none(positional, "what has a default is keyword-only")


def test_steps_start_with_the_state(module):
    for name, function in functions(module):
        if name == "step":
            assert parameters(function)[0].name == "state", module.__name__


def test_parameters_are_few(module):
    many = [
        name
        for name, function in functions(module)
        if sum(p.kind is not p.KEYWORD_ONLY for p in parameters(function)) > 8
    ]
    assert_none(many, "at most eight positional parameters")


def test_everything_is_annotated(module):
    bare = [
        f"{name}({p.name})"
        for name, function in functions(module)
        for p in parameters(function)
        if p.annotation is p.empty
    ]
    bare += [
        f"{name} ->"
        for name, function in functions(module)
        if inspect.signature(function).return_annotation is inspect.Signature.empty
    ]
    assert_none(bare, "annotations")


def test_everything_is_documented(module):
    assert module.__doc__, module.__name__
    bare = [name for name, value in functions(module) if not inspect.getdoc(value)]
    bare += [
        name for name, cls in own(module, inspect.isclass) if not inspect.getdoc(cls)
    ]
    assert_none(bare, "docstrings")


@pytest.mark.parametrize("name", gladjax.__all__)
def test_no_function_repeats_its_module(name):
    public = getattr(getattr(gladjax, name), "__all__", None)
    public = public or dict(own(getattr(gladjax, name), inspect.isfunction))
    repeats = [other for other in public if other.startswith(f"{name}_")]
    assert_none(repeats, "modules are namespaces")


def test_docstrings_name_what_is_there(module):
    """Every option that ``Args`` describes exists, and every parameter is described."""
    wrong = []
    for name, function in functions(module):
        text = inspect.getdoc(function) or ""
        if "Args:" not in text:
            continue
        block = text.split("Args:\n", 1)[1].split("\n\n", 1)[0]
        described = {
            line.strip().split(":", 1)[0].lstrip("*")
            for line in block.splitlines()
            if line.startswith("  ") and line[2:3] not in (" ", "") and ":" in line
        }
        present = {p.name for p in parameters(function)}
        if described != present:
            wrong.append(f"{name}: {sorted(described ^ present)}")
    assert_none(wrong, "Args describes the parameters")


def test_public_modules_are_exported_one_by_one():
    assert sorted(gladjax.__all__) == sorted(set(gladjax.__all__))
    for name in gladjax.__all__:
        assert inspect.ismodule(getattr(gladjax, name))


def test_the_readme_lists_every_public_module():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in gladjax.__all__ if f"`{name}`" not in readme]
    missing = [name for name in missing if f"gladjax.{name}" not in readme]
    assert_none(missing, "modules that README.md does not name")
