"""Samples in blocks: every sample once, in its own group, in a static shape."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax import routing

SPLITS = {
    "even": np.repeat(np.arange(4), 5),
    "one group": np.full(20, 2),
    "some left out": np.array([-1, 0, 4, 1, 1, 9, 3, 0, -7, 3, 3, 3, 3]),
    "nobody": np.full(20, -1),
}


@pytest.fixture(params=SPLITS)
def labels(request):
    return SPLITS[request.param].astype(np.int32)


@pytest.mark.parametrize("size", [1, 3, 8, 64])
def test_every_sample_has_one_slot_in_a_block_of_its_group(labels, variant, size):
    routed = variant(lambda z: routing.blocks(z, 4, size=size))(jnp.asarray(labels))
    routed = jax.tree.map(np.asarray, routed)
    assert routed.slots.shape == (len(labels) // size + 4, size)
    expected = {i: c for i, c in enumerate(labels.tolist()) if 0 <= c < 4}
    seen = {}
    for block in range(len(routed.group)):
        for slot in range(size):
            if routed.filled[block, slot]:
                i = int(routed.slots[block, slot])
                assert i not in seen
                seen[i] = int(routed.group[block])
    assert seen == expected
    counts = [sum(c == k for c in expected.values()) for k in range(4)]
    assert routed.counts.tolist() == counts


def test_samples_of_a_group_keep_their_order(rng):
    labels = rng.integers(0, 3, 50).astype(np.int32)
    routed = routing.blocks(jnp.asarray(labels), 3, size=4)
    index, filled = np.asarray(routed.slots), np.asarray(routed.filled)
    for c in range(3):
        own = np.asarray(routed.group) == c
        got = index[own][filled[own]]
        np.testing.assert_array_equal(got, np.flatnonzero(labels == c))


def test_the_hosts_groups_are_the_same(labels):
    order, starts = routing.group(labels, 4)
    for c in range(4):
        own = order[starts[c] : starts[c + 1]]
        np.testing.assert_array_equal(own, np.flatnonzero(labels == c))


def test_many_groups_are_sorted_too(rng):
    labels = rng.integers(0, 70_000, 500)  # More than 16 bits can name.
    order, starts = routing.group(labels, 70_000)
    np.testing.assert_array_equal(labels[order], np.sort(labels))
    np.testing.assert_array_equal(np.diff(starts), np.bincount(labels, minlength=70000))


def test_one_trace_serves_every_split(rng):
    chex.clear_trace_counter()
    traced = jax.jit(
        chex.assert_max_traces(lambda z: routing.blocks(z, 4, size=3).counts, n=1)
    )
    for _ in range(3):
        labels = rng.integers(-1, 5, 20).astype(np.int32)
        expected = np.bincount(labels[(labels >= 0) & (labels < 4)], minlength=4)
        np.testing.assert_array_equal(traced(jnp.asarray(labels)), expected)


def test_vmap_equals_a_loop(rng):
    labels = jnp.asarray(rng.integers(-1, 4, (3, 20)), jnp.int32)
    many = jax.vmap(lambda z: routing.blocks(z, 4, size=3))(labels)
    for i in range(3):
        one = routing.blocks(labels[i], 4, size=3)
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, i=i: leaf[i], many), one)
