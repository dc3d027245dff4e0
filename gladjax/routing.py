"""Samples grouped by component, in blocks of static shape.

Assigning samples to components and then multiplying each group with a matrix of its own
is the routing of a mixture-of-experts layer. `blocks` sorts the samples by component
and cuts each group into blocks of ``size`` rows. However the samples split among the
components, ``n // size + k`` blocks are enough: a static number, so one compiled
program serves every iteration. Slots beyond the end of a group are marked as empty.

The M-step (means, scatters), the E-step (full costs of the open pairs), the local
weights and the map (scoring) all go through it. `group` is the same thing on the host,
where shapes may depend on the data and need no padding. `least` picks the component of
each sample from a table of costs.

Notation: ``n`` samples, ``k`` components (groups), ``b`` blocks of ``s`` slots.

Differs from the reference in: nothing; the paper does not say how samples are grouped.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Blocks(NamedTuple):
    """Samples grouped by component, padded to whole blocks.

    Attributes:
      slots: Sample in each slot; empty slots repeat sample 0.
      filled: Which slots hold a sample.
      group: Component of each block; blocks beyond the last repeat component 0.
      counts: Number of samples of each component.
      used: Blocks that hold a sample; they come first.
    """

    slots: Int[Array, "b s"]
    filled: Bool[Array, "b s"]
    group: Int[Array, " b"]
    counts: Int[Array, " k"]
    used: Int[Array, ""]


def ordered(
    labels: Int[Array, " n"], num_groups: int
) -> tuple[Int[Array, " n"], Int[Array, " k"]]:
    """Sorts samples by component.

    Args:
      labels: Component of each sample; samples with labels outside of
        ``[0, num_groups)`` come last.
      num_groups: Number of components.

    Returns:
      The samples in the order of their components, stable, and the number of samples
      of each component.
    """
    inside = (labels >= 0) & (labels < num_groups)
    safe = jnp.where(inside, labels, num_groups).astype(jnp.int32)
    counts = jnp.zeros((num_groups + 1,), jnp.int32).at[safe].add(1)[:num_groups]
    n = labels.shape[0]
    if (num_groups + 1) * n <= np.iinfo(np.int32).max:
        # Label and sample in one number: sorting single numbers is five times as fast.
        keys = jnp.sort(safe * n + jnp.arange(n, dtype=jnp.int32))
        return keys % max(n, 1), counts
    return jnp.argsort(safe, stable=True).astype(jnp.int32), counts


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
    return cut(*ordered(labels, num_groups), size=size)


def cut(order: Int[Array, " n"], counts: Int[Array, " k"], *, size: int) -> Blocks:
    """Cuts sorted samples into blocks.

    Args:
      order: Samples sorted by component, those of no component last.
      counts: Number of samples of each component.
      size: Slots in a block.

    Returns:
      The blocks, as `blocks` returns them.
    """
    num_groups = counts.shape[0]
    num_blocks = order.shape[0] // size + num_groups
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    per_group = (counts + size - 1) // size
    block_ends = jnp.cumsum(per_group, dtype=jnp.int32)
    block = jnp.arange(num_blocks, dtype=jnp.int32)
    group = jnp.searchsorted(block_ends, block, side="right").astype(jnp.int32)
    used = group < num_groups
    group = jnp.where(used, group, 0)
    within = block - (block_ends - per_group)[group]
    first = (ends - counts)[group] + within * size
    slot = first[:, None] + jnp.arange(size, dtype=jnp.int32)[None, :]
    filled = used[:, None] & (slot < ends[group][:, None])
    index = jnp.where(filled, order.at[slot].get(mode="clip"), 0)
    return Blocks(index, filled, group, counts, block_ends[-1])


def least(costs: Float[Array, "k c"]) -> tuple[Float[Array, " c"], Int[Array, " c"]]:
    """Returns the least cost of each column and its row, the first of equals.

    Two reductions along the leading axis, which vectorise, where ``argmin`` does not.
    """
    k = costs.shape[0]
    best = jnp.min(costs, axis=0)
    row = jnp.arange(k, dtype=jnp.int32)[:, None]
    at = jnp.min(jnp.where(costs == best[None, :], row, k), axis=0)
    return best, jnp.minimum(at, k - 1).astype(jnp.int32)


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


def batches(routed: Blocks, size: int) -> Blocks:
    """Pads blocks to whole batches.

    Args:
      routed: The blocks.
      size: Blocks in a batch, at most.

    Returns:
      The blocks with a leading axis of ``ceil(b / size)`` batches.
    """
    size = max(1, min(size, routed.group.shape[0]))
    missing = -routed.group.shape[0] % size
    count = (routed.group.shape[0] + missing) // size
    width = routed.slots.shape[1]
    pad = ((0, missing), (0, 0))
    return routed._replace(
        slots=jnp.pad(routed.slots, pad).reshape(count, size, width),
        filled=jnp.pad(routed.filled, pad).reshape(count, size, width),
        group=jnp.pad(routed.group, pad[0]).reshape(count, size),
        used=(routed.used + size - 1) // size,
    )
