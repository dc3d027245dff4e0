"""Programs that outlive the process: the same answers, and never another's program."""

import collections
import functools
import json
import pathlib
import subprocess
import sys
import threading

import children
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from gladjax import cache, compiled, covariance, detector, programs

Pair = collections.namedtuple("Pair", "low high")

SCRIPT = """
import collections, sys
import jax
found = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **more: found.update(
        [more.get("fun_name")] if event.endswith("jaxpr_trace_duration") else []
    )
)
from gladjax import cache
cache.keep_programs()
import numpy as np
from gladjax import assign, kmle
rng = np.random.default_rng(0)
x = rng.normal(size=(600, 6)).astype(np.float32)
fitted, _ = kmle.fit(jax.random.key(0), x, num_components=4, max_steps=5)
labels = assign.nearest(fitted, x)[0]
print(sum(found[name] for name in ("_search", "_reestimate", "_nearest")))
print(labels.sum(), float(fitted.means.sum()).hex())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which this test keeps its programs."""
    place = tmp_path / "programs"
    place.mkdir(mode=0o700)
    monkeypatch.setattr(cache, "_kept", [place])
    monkeypatch.setattr(cache, "loaded", {})
    return place


def number(folder):
    return len(list(folder.glob(f"*{compiled.ENDING}")))


def double(x):
    traced.append(x.shape)
    return 2 * x


traced = []


def forget():
    """What the end of the process does."""
    cache.loaded.clear()
    traced.clear()


double.__module__ = "gladjax.tests"  # As if it were a function of the package.
forget.__module__ = "gladjax.tests"


def run(folder, **more):
    return children.run(SCRIPT, folder, **more)[0].splitlines()


def test_a_second_process_traces_none_and_answers_the_same(tmp_path):
    (first, *known), (second, *again) = run(tmp_path), run(tmp_path)
    assert int(first) >= 3
    assert second == "0"
    assert again == known
    plain = run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="true")  # Keeps nothing whole.
    assert plain == [first, *known]


def test_a_program_is_read_back(folder):
    program = programs.Program(double)
    for _ in range(2):
        forget()
        np.testing.assert_array_equal(program(np.arange(3.0)), [0, 2, 4])
        np.testing.assert_array_equal(program(np.arange(4.0)), [0, 2, 4, 6])
    assert not traced
    assert number(folder) == 2


def test_arrays_of_numpy_and_of_jax_share_a_program(folder):
    program = programs.Program(double)
    for x in (np.ones(3, np.float32), jnp.ones(3), np.ones(3)):
        np.testing.assert_array_equal(program(x), [2, 2, 2])
    assert number(folder) == len(cache.loaded) == 1


def test_without_a_folder_it_is_a_jitted_function(monkeypatch):
    monkeypatch.setattr(cache, "_kept", [])
    monkeypatch.setattr(cache, "loaded", {})
    forget()
    program = programs.Program(lambda x: double(x))
    assert program(np.float32(2)) == program(np.float32(2)) == 4
    assert traced == [()]
    assert not cache.loaded


@pytest.mark.parametrize(
    "arguments",
    [
        (np.float32(1),),
        (1,),
        (1.0,),
        (jnp.float32(1),),
        (jnp.asarray(1.0) * 1,),
        (np.int32(1),),
        (np.float64(1),),
        (jnp.bfloat16(1),),
        (np.ones((1,), np.float32),),
    ],
    ids=repr,
)
def test_a_result_has_the_type_that_jit_gives_it(folder, arguments):
    def function(x):
        return x + 1, {"a": (x, None)}, Pair(x, x)

    function.__module__ = "gladjax.tests"
    program = programs.Program(function)
    known = jax.jit(function)(*arguments)
    for _ in range(2):
        forget()
        found = program(*arguments)
        assert jax.tree.structure(found) == jax.tree.structure(known)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(known), strict=True):
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
            np.testing.assert_array_equal(a, b)
    assert number(folder) == 1


def test_constants_and_names_of_arguments(folder):
    def function(x, power=2, *, plus=0):
        return x**power + plus

    function.__module__ = "gladjax.tests"
    program = programs.Program(function, static=("power", "plus"))
    x = np.full(2, 3.0, np.float32)
    for _ in range(2):
        forget()
        assert program(x)[0] == program(x=x)[0] == program(x, 2)[0] == 9
        assert program(x, 3)[0] == program(x, power=3)[0] == 27
        assert program(x, 3, plus=1)[0] == 28
        assert program(x, 2.0)[0] == 9  # Equal to 2, and of another type.
    assert number(folder) == 5  # Whether a default is given or not is no matter to JAX.


def test_donated_memory_is_gone(folder):
    def function(old, x):
        return jax.tree.map(lambda a: a + x, old)

    function.__module__ = "gladjax.tests"
    program = programs.Program(function, donate=("old",))
    for _ in range(2):
        forget()
        old, x = {"a": jnp.ones(5), "b": jnp.zeros(3)}, jnp.float32(1)
        np.testing.assert_array_equal(program(old, x)["a"], np.full(5, 2))
        assert all(a.is_deleted() for a in old.values())
        assert not x.is_deleted()
    assert number(folder) == 1


def test_keys_of_random_numbers(folder):
    def function(key, x):
        return jax.random.normal(key, x.shape) + x, key

    function.__module__ = "gladjax.tests"
    program = programs.Program(function)
    x = np.zeros(4, np.float32)
    for seed in (0, 1):
        forget()
        found, key = program(jax.random.key(seed), x)
        np.testing.assert_array_equal(found, jax.random.normal(key, (4,)))
    assert number(folder) == 1


def test_float64_is_a_program_of_its_own(folder):
    program = programs.Program(double)
    x = np.full(2, 1 / 3)
    assert program(x).dtype == np.float32
    with jax.enable_x64(True):
        assert program(x).dtype == np.float64
        np.testing.assert_array_equal(program(x), 2 * x)
    assert program(x).dtype == np.float32
    assert number(folder) == 2


def test_inside_of_other_programs_it_is_traced(folder):
    program = programs.Program(double, alone=True)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(jax.jit(program)(x), 2 * x)
    np.testing.assert_array_equal(jax.vmap(program)(x), 2 * x)
    np.testing.assert_array_equal(jax.grad(lambda x: program(x).sum())(x), 2 + 0 * x)
    assert not number(folder)


def listed(folder):
    (path,) = folder.glob(f"*{compiled.LIST}")
    return path


def test_a_command_reads_ahead_what_it_used_the_last_time(folder, monkeypatch):
    program = programs.Program(double)

    @programs.as_last_time("double")
    def command(*sizes):
        return [float(program(np.ones(n, np.float32)).sum()) for n in sizes]

    assert command(2, 3) == [4, 6]
    assert len(compiled.noted(listed(folder))[0]) == 2
    threads = {}
    plain = compiled.read

    def read(path):
        threads[path] = threading.current_thread()
        return plain(path)

    monkeypatch.setattr(compiled, "read", read)
    forget()
    with programs.as_last_time("double"):
        programs._ahead[-1]._pool.shutdown()  # Until all of them are read.
        assert set(threads) == set(compiled.noted(listed(folder))[0])
        assert threading.main_thread() not in threads.values()
        threads.clear()
        assert program(np.ones(3, np.float32)).sum() == 6
        assert not threads
        assert program(np.ones(4, np.float32)).sum() == 8  # It is not in the list.
        assert list(threads.values()) == [threading.main_thread()]
    assert not programs._ahead
    assert len(compiled.noted(listed(folder))[0]) == 2  # Of 3 and 4.
    forget()
    assert command(4, 3, 2) == [8, 6, 4]
    assert not traced
    assert len(compiled.noted(listed(folder))[0]) == 3


def test_what_is_not_begun_is_not_waited_for(folder):
    program = programs.Program(double)
    with programs.as_last_time("double"):
        program(np.float32(1))
    ahead = compiled.Ahead([])
    held = threading.Event()
    for _ in range(compiled.THREADS):
        ahead._pool.submit(held.wait)
    (path,) = compiled.noted(listed(folder))[0]
    ahead._jobs[path] = ahead._pool.submit(pytest.fail)
    assert ahead.read(path)(np.float32(3)) == 6
    held.set()
    ahead.stop()


def test_only_programs_of_the_folder_are_read_ahead(folder, tmp_path):
    program = programs.Program(double)

    @programs.as_last_time("double")
    def failing():
        program(np.float32(1))
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        failing()
    assert not list(folder.glob(f"*{compiled.LIST}"))  # It did not end well.
    with programs.as_last_time("double"):
        program(np.float32(1))
    cache.loaded.clear()
    with programs.as_last_time("double"):
        program(np.float32(1))
    (kept,) = compiled.noted(listed(folder))[0]
    (tmp_path / kept.name).write_bytes(kept.read_bytes())
    names = [f"../{kept.name}", str(tmp_path / kept.name), "missing.program", kept.name]
    listed(folder).write_text(json.dumps({"programs": names, "notes": {}}))
    assert compiled.noted(listed(folder))[0] == [kept]
    listed(folder).write_bytes(b"\xff\x00")
    assert compiled.noted(listed(folder))[0] == []
    cache.loaded.clear()
    with programs.as_last_time("double"):
        assert program(np.float32(1)) == 2
    assert compiled.noted(listed(folder))[0] == [kept]


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"programs": 3}', '{"programs": [[1]], "notes": {}}', "{", "\ud800"],
)
def test_a_damaged_list_says_nothing(folder, text):
    path = folder / f"double{compiled.LIST}"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert compiled.noted(path) == ([], {})


def test_a_command_finds_its_notes(folder):
    program = programs.Program(double)
    with programs.as_last_time("double") as last:
        assert (last.programs, last.notes) == (0, {})
        program(np.float32(1))
        first = programs.compiling()
        last.notes["told"] = {"30": 1.5}
    assert first > 0
    with programs.as_last_time("double") as last:
        assert (last.programs, last.notes) == (1, {"told": {"30": 1.5}})
        assert programs.compiling() == 0
        forget()
        program(np.float32(1))
        assert programs.compiling() == 0  # It was read.
    with programs.as_last_time("double") as last:
        assert last.notes == {"told": {"30": 1.5}}


def test_a_damaged_program_that_is_read_ahead_is_compiled_again(folder):
    program = programs.Program(double)
    with programs.as_last_time("double"):
        program(np.float32(1))
    (kept,) = compiled.noted(listed(folder))[0]
    kept.write_bytes(kept.read_bytes()[:-1])
    forget()
    with programs.as_last_time("double"):
        assert program(np.float32(2)) == 4
    assert traced == [()]
    forget()
    assert program(np.float32(2)) == 4
    assert not traced


def test_an_option_that_xla_does_not_know_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(programs, "PLAIN", {"xla_cpu_no_such_option": False})
    assert programs.Program(double)(np.float32(3)) == 6
    assert number(folder) == 1


def test_spread_arrays_and_other_devices_are_left_to_jax(folder):
    devices = jax.devices()
    if len(devices) < 2:
        pytest.skip("one device")
    program = programs.Program(double)
    spread = NamedSharding(jax.make_mesh((2,), ("x",)), PartitionSpec("x"))
    found = program(jax.device_put(np.ones(4, np.float32), spread))
    assert len(found.devices()) == 2
    assert program(jax.device_put(np.float32(1), devices[1])).devices() == {devices[1]}
    with jax.default_device(devices[1]):
        assert program(np.float32(1)).devices() == {devices[1]}
    assert not number(folder)


def test_errors_are_looked_for_where_they_are_asked_for(folder):
    program = programs.Program(double)
    with jax.disable_jit():
        program(np.float32(1))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        program(np.float32(np.nan))
    assert not number(folder)


@pytest.mark.parametrize("damage", ["half", "empty", "other", "swapped"])
def test_a_damaged_file_is_compiled_again(folder, damage):
    program = programs.Program(double)
    program(np.zeros(3, np.float32))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "swapped":  # Whole, but of another program.
        programs.Program(double)(np.zeros(4, np.float32))
        (other,) = set(folder.iterdir()) - {path}
        path.write_bytes(other.read_bytes())
    else:
        cut = {
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "other": whole[:-1] + b"?",
        }
        path.write_bytes(cut[damage])
    forget()
    np.testing.assert_array_equal(program(np.ones(3, np.float32)), [2, 2, 2])
    assert path.read_bytes()[32:] != b""
    forget()
    program(np.ones(3, np.float32))
    assert not traced


def test_a_folder_that_cannot_be_written_is_no_error(folder, monkeypatch):
    monkeypatch.setattr(cache, "_kept", [folder / "gone"])
    assert programs.Program(double)(np.float32(1)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes")
def test_what_others_may_write_is_not_run(tmp_path):
    place = tmp_path / "programs"
    place.mkdir(mode=0o700)
    assert cache._private(place)
    for mode in (0o770, 0o702):
        place.chmod(mode)
        assert not cache._private(place)
    assert not cache._private(tmp_path / "gone")


def test_threads_find_one_program(folder):
    program = programs.Program(double)
    found = []
    x = np.ones(3, np.float32)
    threads = [
        threading.Thread(target=lambda: found.append(program(x))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [float(a.sum()) for a in found] == [6.0] * 4
    assert number(folder) == 1


def test_code_of_others_is_not_kept(folder):
    """Nothing is known of what it will be tomorrow."""

    def theirs(x):
        return x + 1

    assert programs.Program(theirs)(np.float32(1)) == 2
    image = np.zeros((1, 32, 32, 3), np.float32)
    network = tiny.network()
    detector.inference.run(network, {}, image)
    assert not number(folder)


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x,
        tiny.network,
        functools.partial(tiny.pictures, 3),
        object(),
        (1, (object(),)),
        np.float64(1),
        np.zeros(2),
    ],
    ids=["lambda", "cached", "partial", "object", "within", "scalar", "array"],
)
def test_what_is_not_known_is_said(value):
    with pytest.raises(programs._UnknownError):
        programs._told(value)


def test_words_tell_values_apart():
    values = [
        None, 1, 1.0, True, "1", b"1", (1,), [1], {1: 2}, ((1, 2),),
        frozenset((1, 2)), np.dtype("float32"), np.dtype("float64"),
        covariance.Factor, double, forget,
        *(functools.partial(double, n) for n in (1, 2)),
        jax.tree.structure((1, 2)), jax.tree.structure([1, 2]),
        jax.tree.structure({"a": 1}), jax.tree.structure({"b": 1}),
        jax.tree.structure(None), jax.tree.structure(1),
    ]  # fmt: skip
    assert len({programs._told(value) for value in values}) == len(values)


def test_functions_of_one_line_are_told_apart():
    pair = [lambda x: x + 1, lambda x: x + 2]  # fmt: skip
    for function in pair:
        function.__module__ = "gladjax.tests"
    assert programs._told(pair[0]) != programs._told(pair[1])


def test_where_nothing_is_known_of_the_settings_none_is_kept(folder, monkeypatch):
    class Config:
        jax_default_device = jax_disable_jit = jax_debug_nans = jax_debug_infs = None
        jax_enable_x64, jax_default_matmul_precision = False, None

    monkeypatch.setattr(programs, "_environment", programs._environment.__wrapped__)
    monkeypatch.setattr(programs, "_setting", lambda name: getattr(Config, name))
    monkeypatch.setattr(programs.jax, "config", Config)
    with pytest.raises(programs._UnknownError):
        programs._environment()


WORDS = """
import jax
from gladjax import backbone, programs
for name in ("resnet18", "efficientnet_lite0", "resnet18"):
    network = backbone.random(jax.random.key(0), name)
    print(programs._told(jax.tree.structure(network)))
"""


def test_a_network_of_ours_is_told_in_words():
    done = subprocess.run(
        [sys.executable, "-c", WORDS], capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[0] == words[2] != words[1]
    assert "0x" not in done.stdout


@pytest.fixture
def environment(monkeypatch):
    """The words of the environment, anew at each call."""
    monkeypatch.setattr(programs, "_environment", programs._environment.__wrapped__)
    return lambda: programs._environment()


def test_a_change_of_the_sources_is_another_program(environment, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "one.py"
    file.write_text("x = 1")
    monkeypatch.setattr(programs, "_PACKAGE", tmp_path)
    words = [environment()]
    file.write_text("x = 2")
    words.append(environment())
    file.rename(tmp_path / "one.py")
    words.append(environment())
    assert len(set(words)) == 3
    assert environment() == words[2]


def test_flags_and_versions_are_part_of_it(environment, monkeypatch):
    words = [environment()]
    assert environment() == words[0]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    words.append(environment())
    monkeypatch.setattr(programs.metadata, "version", lambda _: "0.0")
    words.append(environment())
    monkeypatch.setattr(programs, "_processor", lambda: "another")
    words.append(environment())
    assert len(set(words)) == 4


def test_the_processor_is_named(monkeypatch):
    assert programs._processor()
    monkeypatch.setattr(pathlib.Path, "read_text", _fails)
    assert programs._processor()


def _fails(*_, **__):
    raise OSError
