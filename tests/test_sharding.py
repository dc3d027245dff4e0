"""K-MLE on many devices against K-MLE on one, and what each of them holds."""

import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic_mixtures as synthetic

from gladjax import assign, covariance, kmle, sharding

KEY = jax.random.key(0)
COUNTS, D = [1, 2, 5, 9, 12, 13, 14, 40], 10  # Fewer and more samples than features.


def mesh_of(size):
    return jax.make_mesh((size,), ("samples",), devices=jax.devices()[:size])


def samples(seed, dtype):
    x, _ = synthetic.clusters(np.random.default_rng(seed), COUNTS, D, distance=4.0)
    return x.astype(dtype)


def compare(mesh, x, *, valid=None, rtol, **options):
    """Fits on one device and on the mesh; returns the labels of both."""
    alone, expected = kmle.fit(KEY, x, num_components=12, valid=valid, **options)
    spread, used = sharding.place(x, mesh=mesh, valid=valid)
    fitted, info = sharding.fit(
        KEY, spread, valid=used, mesh=mesh, num_components=12, **options
    )
    np.testing.assert_array_equal(info.labels[: len(x)], expected.labels)
    assert np.all(info.labels[len(x) :] == -1)
    np.testing.assert_array_equal(info.num_components, expected.num_components)
    np.testing.assert_array_equal(info.moved, expected.moved)
    np.testing.assert_allclose(info.log_likelihood, expected.log_likelihood, rtol=rtol)
    assert info.converged == expected.converged
    np.testing.assert_allclose(fitted.log_weights, alone.log_weights, rtol=1e-5)
    np.testing.assert_allclose(fitted.means, alone.means, rtol=rtol, atol=10 * rtol)
    np.testing.assert_array_equal(fitted.ranks, alone.ranks)
    np.testing.assert_allclose(
        synthetic.dense(fitted), synthetic.dense(alone), rtol=0, atol=100 * rtol
    )
    return info


# Against one device


@pytest.mark.parametrize(
    ("size", "dtype"), [(8, np.float64), (8, np.float32), (3, np.float32)]
)
def test_labels_are_those_of_one_device(size, dtype):
    rtol = 1e-9 if dtype == np.float64 else 1e-4
    with jax.enable_x64(dtype == np.float64):
        for seed in range(2):
            info = compare(mesh_of(size), samples(seed, dtype), rtol=rtol)
            assert len(info.moved) > 2
            assert info.converged


def test_invalid_samples_are_never_used(x64):
    x = samples(0, np.float64)
    valid = np.random.default_rng(0).random(len(x)) < 0.8
    x[~valid] = np.nan
    info = compare(mesh_of(8), x, valid=valid, rtol=1e-9)
    assert np.all((info.labels[: len(x)] == -1) == ~valid)


def test_an_interrupted_fit_goes_on_to_the_same_result(x64):
    mesh = mesh_of(8)
    spread, used = sharding.place(samples(0, np.float64), mesh=mesh)
    run = functools.partial(
        sharding.fit, KEY, spread, valid=used, mesh=mesh, num_components=12
    )
    seen = []
    _, info = run(monitor=seen.append)
    _, other = run(resume=seen[1])
    np.testing.assert_array_equal(other.labels, info.labels)
    np.testing.assert_allclose(other.log_likelihood, info.log_likelihood, rtol=1e-12)


def test_of_equal_components_the_first_wins_wherever_it_lives(x64):
    # Two components of the same samples' copies: every cost is a tie.
    mesh = mesh_of(2)
    half = np.random.default_rng(0).normal(size=(20, 3))
    x = np.concatenate([half, half])
    labels = np.repeat([0, 1], 20).astype(np.int32)
    start = kmle.Snapshot(0, labels, np.zeros((0, 5)))
    spread, used = sharding.place(x, mesh=mesh)
    seen = []
    sharding.fit(
        KEY,
        spread,
        valid=used,
        mesh=mesh,
        num_components=2,
        resume=start,
        max_steps=1,
        monitor=seen.append,
    )
    assert not np.any(seen[0].labels)


# What a device holds


def sizes(num_devices, *, n=4096, d=32, k=64):
    """Bytes per device of the samples, and of either step with what it computes."""
    mesh = mesh_of(num_devices)
    spread, used = sharding.place(np.ones((n, d), np.float32), mesh=mesh)
    programs = sharding.Programs(mesh, 2, covariance.oas, assign.nearest)
    counts = np.full(k, n // k, np.int32)
    places = sharding.deal(counts, num_devices)
    place = np.argsort(places.ravel()).astype(np.int32)
    room = n // num_devices
    names = jnp.zeros((n,), jnp.int32, device=used.sharding)
    estimate = programs.estimate(room, 4096)
    inputs = (spread, names, place, counts, np.float32(1e-6))
    shard = jax.eval_shape(estimate, *inputs)
    shard = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=used.sharding), shard
    )
    total = []
    for program, arguments in (
        (estimate, inputs),
        (programs.search, (spread, used, shard, places)),
    ):
        memory = program.lower(*arguments).compile().memory_analysis()
        total.append(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
        )
    held = spread.addressable_shards[0].data.nbytes
    return held, *total


def test_a_device_holds_its_share():
    one, eight = np.array(sizes(1)), np.array(sizes(8))
    assert eight[0] == one[0] / 8
    # Beside its own share a device holds the one that passes, and what is constant.
    assert np.all(eight[1:] < one[1:] / 3)


def test_the_mixture_is_spread_too():
    mesh = mesh_of(8)
    x = samples(0, np.float32)
    spread, _ = sharding.place(x, mesh=mesh)
    programs = sharding.Programs(mesh, 2, covariance.oas, assign.nearest)
    labels = (np.arange(spread.shape[0]) % 8).astype(np.int32)
    counts = np.bincount(labels).astype(np.int32)
    room = int(counts.max())
    place = np.arange(8, dtype=np.int32)
    spec = spread.sharding
    parts = programs.estimate(room, 4096)(
        spread,
        jax.device_put(labels, jax.sharding.NamedSharding(mesh, spec.spec)),
        place,
        counts,
        np.float32(1e-6),
    )
    for leaf in jax.tree.leaves(parts):
        shapes = {shard.data.shape[0] for shard in leaf.addressable_shards}
        assert shapes == {leaf.shape[0] // 8}
    assert parts.rows.addressable_shards[0].data.shape[0] <= room


# How components are dealt


def test_every_component_is_dealt_once_and_evenly(rng):
    counts = rng.poisson(50, size=101)
    counts[3] = 0
    places = sharding.deal(counts, 8)
    assert places.shape == (8, 13)
    real = places[places < 101]
    np.testing.assert_array_equal(np.sort(real), np.arange(101))
    assert np.all(np.diff(places, axis=1)[places[:, 1:] < 101] > 0)
    loads = np.append(counts, 0)[places].sum(axis=1)
    assert loads.max() <= 1.05 * counts.sum() / 8


# Two processes


WORKER = """
import sys
import jax
rank, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import numpy as np
from gladjax import sharding
x = np.load(f"{folder}/x.npy")
half = len(x) // 2
mesh = jax.make_mesh((jax.device_count(),), ("samples",))
part = x[rank * half : (rank + 1) * half]
spread, valid = sharding.place(part, mesh=mesh)
fitted, info = sharding.fit(
    jax.random.key(0), spread, valid=valid, mesh=mesh, num_components=12
)
local = sum(shard.data.nbytes for shard in spread.addressable_shards)
np.savez(
    f"{folder}/{rank}.npz",
    labels=info.labels,
    means=fitted.means,
    devices=jax.device_count(),
    local=local,
)
jax.distributed.shutdown()
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_find_what_one_finds(tmp_path):
    x = samples(0, np.float32)
    assert len(x) % 4 == 0
    np.save(tmp_path / "x.npy", x)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": root}
    port = str(free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), port, str(tmp_path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    _, expected = kmle.fit(KEY, x, num_components=12)
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        assert found["devices"] == 4
        assert found["local"] == x.nbytes / 2
        np.testing.assert_array_equal(found["labels"], expected.labels)


# Refusals


def test_what_does_not_fit_is_refused():
    mesh = mesh_of(8)
    x = jnp.ones((12, 2), jnp.float32)
    with pytest.raises(ValueError, match="evenly"):
        sharding.fit(KEY, x, mesh=mesh, num_components=2)
    square = jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])
    with pytest.raises(ValueError, match="one axis"):
        sharding.place(np.ones((4, 2), np.float32), mesh=square)
    spread, used = sharding.place(np.full((16, 2), np.nan, np.float32), mesh=mesh)
    with pytest.raises(ValueError, match="finite"):
        sharding.fit(KEY, spread, valid=used, mesh=mesh, num_components=2)


def test_the_script_in_the_readme_runs():
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text("utf-8")
    (script,) = re.findall(r"```python\n(import os\n.*?)```", readme, re.DOTALL)
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == "(100, 16) (12, 16)\n"
