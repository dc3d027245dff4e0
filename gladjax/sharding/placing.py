"""Where samples and components are: spread, dealt out, and gathered again."""

import heapq

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int


def place(
    features: Float[np.ndarray, "n d"],
    *,
    mesh: Mesh,
    valid: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Float[Array, "_n d"], Bool[Array, " _n"]]:
    """Spreads samples over the devices of a mesh.

    Args:
      features: Samples of this process, the same number in every process.
      mesh: Devices along one axis.
      valid: Samples that count; all by default.

    Returns:
      The samples of all processes, process after process, each padded to a multiple of
      its devices; and which of them count.
    """
    spec = NamedSharding(mesh, PartitionSpec(axis_of(mesh)))
    here = len(spec.addressable_devices)
    missing = -len(features) % here
    used = np.ones(len(features), bool) if valid is None else np.asarray(valid)
    padded = np.pad(features, ((0, missing), (0, 0)))
    used = np.pad(used, (0, missing))
    return (
        jax.make_array_from_process_local_data(spec, padded),
        jax.make_array_from_process_local_data(spec, used),
    )


def gather(spread: Array) -> np.ndarray:
    """Returns the whole of an array that is spread over devices, in every process.

    Args:
      spread: The array.

    Returns:
      A copy on the host.
    """
    if not spread.is_fully_addressable:
        spread = multihost_utils.process_allgather(spread, tiled=True)
    return np.asarray(spread)


def deal(counts: Int[np.ndarray, " k"], num_devices: int) -> Int[np.ndarray, "p j"]:
    """Deals components to devices so that all have about the same number of samples.

    Args:
      counts: Samples of each component, ``(k,)``.
      num_devices: Number of devices ``p``.

    Returns:
      The component in each place, device after device, ``(p, ceil(k / p))``, rising
      within a device; ``k`` where a place is empty.
    """
    k = len(counts)
    room = -(-k // num_devices)
    shares: list[list[int]] = [[] for _ in range(num_devices)]
    heap = [(0, device) for device in range(num_devices)]
    for component in np.argsort(-counts, kind="stable").tolist():
        load, device = heapq.heappop(heap)
        shares[device].append(component)
        if len(shares[device]) < room:
            heapq.heappush(heap, (load + int(counts[component]), device))
    places = np.full((num_devices, room), k, np.int32)
    for device, share in enumerate(shares):
        places[device, : len(share)] = sorted(share)
    return places


def axis_of(mesh: Mesh) -> str:
    """Returns the name of the only axis of a mesh.

    Args:
      mesh: The mesh.

    Returns:
      The name.

    Raises:
      ValueError: If the mesh has several axes.
    """
    if len(mesh.axis_names) != 1:
        raise ValueError(f"the mesh must have one axis, not {mesh.axis_names}")
    return str(mesh.axis_names[0])
