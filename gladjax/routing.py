"""Samples grouped by component, in blocks of static shape.

Assigning samples to components and then multiplying each group with a matrix of its own
is the routing of a mixture-of-experts layer. `blocks` sorts the samples by component
and cuts each group into blocks of ``size`` rows. However the samples split among the
components, ``n // size + k`` blocks are enough: a static number, so one compiled
program serves every iteration. Slots beyond the end of a group are marked as empty.

The M-step (means, scatters), the E-step (full costs of the surviving pairs), the local
weights (costs at the positions where a component is active) and the map (scoring) all
go through it. `group` and `tasks` are the same thing on the host, where shapes may
depend on the data and need no padding.

Notation: ``n`` samples, ``k`` components (groups), ``b`` blocks of ``s`` slots.

Differs from the reference in: nothing; the paper does not say how samples are grouped.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

T = TypeVar("T")


class Blocks(NamedTuple):
    """Samples grouped by component, padded to whole blocks.

    Attributes:
      slots: Sample in each slot; empty slots repeat sample 0.
      filled: Which slots hold a sample.
      group: Component of each block; blocks beyond the last repeat component 0.
      counts: Number of samples of each component.
    """

    slots: Int[Array, "b s"]
    filled: Bool[Array, "b s"]
    group: Int[Array, " b"]
    counts: Int[Array, " k"]


def blocks(labels: Int[Array, " n"], num_groups: int, *, size: int) -> Blocks:
    """Groups samples by label.

    Args:
      labels: Component of each sample; samples with labels outside of
        ``[0, num_groups)`` are left out.
      num_groups: Number of components.
      size: Slots in a block.

    Returns:
      ``n // size + num_groups`` blocks, those of a component next to each other and
      samples within a component in their order.

    Example:
      >>> import jax.numpy as jnp
      >>> routed = blocks(jnp.array([1, 0, 1, 1]), 2, size=2)
      >>> routed.group[:3].tolist(), routed.slots[:3].tolist()
      ([0, 1, 1], [[1, 0], [0, 2], [3, 0]])
    """
    n = labels.shape[0]
    num_blocks = n // size + num_groups
    inside = (labels >= 0) & (labels < num_groups)
    safe = jnp.where(inside, labels, num_groups).astype(jnp.int32)
    order = jnp.argsort(safe, stable=True).astype(jnp.int32)
    counts = jnp.zeros((num_groups + 1,), jnp.int32).at[safe].add(1)[:num_groups]
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    block_ends = jnp.cumsum((counts + size - 1) // size, dtype=jnp.int32)
    block = jnp.arange(num_blocks, dtype=jnp.int32)
    group = jnp.searchsorted(block_ends, block, side="right").astype(jnp.int32)
    used = group < num_groups
    group = jnp.where(used, group, 0)
    per_group = (counts + size - 1) // size
    within = block - (block_ends - per_group)[group]
    first = (ends - counts)[group] + within * size
    slot = first[:, None] + jnp.arange(size, dtype=jnp.int32)[None, :]
    filled = used[:, None] & (slot < ends[group][:, None])
    index = jnp.where(filled, order.at[slot].get(mode="clip"), 0)
    return Blocks(index, filled, group, counts)


def map_blocks(function: Callable[..., T], routed: Blocks) -> T:
    """Applies a function to one block after the other.

    Args:
      function: Takes ``(index (s,), filled (s,), group ())`` and returns arrays.
      routed: The blocks.

    Returns:
      The results, stacked along a leading axis of ``b`` blocks.
    """
    inputs = (routed.slots, routed.filled, routed.group)
    return jax.lax.map(lambda block: function(*block), inputs)


def group(labels: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups samples by label on the host.

    Args:
      labels: Component of each sample, ``(n,)``; those outside of
        ``[0, num_groups)`` are left out.
      num_groups: Number of components.

    Returns:
      The samples sorted by component, ``(m,)``, stable; and ``(num_groups + 1,)``
      starts, so that component ``k`` owns ``order[starts[k]:starts[k + 1]]``.
    """
    labels = np.asarray(labels)
    inside = (labels >= 0) & (labels < num_groups)
    if num_groups < np.iinfo(np.uint16).max:  # NumPy sorts 16 bits by radix.
        keys = np.where(inside, labels, num_groups).astype(np.uint16)
    else:
        keys = np.where(inside, labels, num_groups)
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=num_groups + 1)[:num_groups]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return order[: starts[-1]], starts


def tasks(starts: np.ndarray, *, size: int) -> np.ndarray:
    """Cuts every group into tasks of at most ``size`` samples (host twin of `blocks`).

    Args:
      starts: As returned by `group`.
      size: Samples in a task.

    Returns:
      ``(t, 3)`` integers: component, first, end (positions in the sorted order).
    """
    counts = np.diff(starts)
    per_group = -(-counts // size)
    component = np.repeat(np.arange(len(counts)), per_group)
    within = np.arange(per_group.sum()) - np.repeat(
        np.cumsum(per_group) - per_group, per_group
    )
    first = starts[component] + within * size
    end = np.minimum(first + size, starts[component + 1])
    return np.stack([component, first, end], axis=1).astype(np.int64)
