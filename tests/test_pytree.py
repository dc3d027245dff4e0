"""The pytree decorator: frozen, named, and transparent to JAX."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax.pytree import pytree, static


@pytree
class Pair:
    """Two arrays and a constant."""

    first: object
    second: object
    size: int = static(default=3)


PAIR = Pair(jnp.arange(3.0, dtype=jnp.float32), jnp.float32(2.0), size=7)


def test_leaves_are_the_fields_that_are_not_static():
    leaves, tree = jax.tree.flatten(PAIR)
    assert len(leaves) == 2
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, Pair)
    assert again.size == 7
    np.testing.assert_array_equal(again.first, PAIR.first)


def test_paths_read_like_attributes():
    paths = [
        jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(PAIR)
    ]
    assert paths == [".first", ".second"]


def test_instances_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAIR.first = None


def test_anything_may_stand_in_a_field():
    names = jax.tree.map(lambda leaf: leaf.dtype.name, PAIR)
    assert (names.first, names.second, names.size) == ("float32", "float32", 7)
    shapes = jax.eval_shape(lambda pair: pair, PAIR)
    assert shapes.first.shape == (3,)
    assert Pair(None, 1.0).first is None


def test_jit_and_vmap_go_through():
    doubled = jax.jit(lambda p: Pair(2 * p.first, p.second, size=p.size))(PAIR)
    np.testing.assert_array_equal(doubled.first, [0, 2, 4])
    assert doubled.size == 7
    many = jax.vmap(lambda x: Pair(x, x**2))(jnp.arange(4.0, dtype=jnp.float32))
    np.testing.assert_array_equal(many.second, [0, 1, 4, 9])


def test_a_static_field_belongs_to_the_structure():
    other = dataclasses.replace(PAIR, size=8)
    assert jax.tree.structure(PAIR) != jax.tree.structure(other)
    with pytest.raises(ValueError, match="pytree"):
        jax.tree.map(jnp.add, PAIR, other)
    traces = []

    @jax.jit
    def traced(pair):
        traces.append(pair.size)
        return pair.second

    for pair in (PAIR, other, PAIR):
        traced(pair)
    assert traces == [7, 8]


def test_gradients_have_the_form_of_the_tree():
    gradient = jax.grad(lambda p: jnp.sum(p.first) * p.second)(PAIR)
    np.testing.assert_array_equal(gradient.first, [2, 2, 2])
    assert float(gradient.second) == 3
