"""From a checkpoint's tensors to weights: nothing missing, nothing left over.

`check` reads a table of names (see `names`) as a bijection: each weight is filled once,
every tensor is used once, or is ignored because the table of the whole network knows it
as a layer behind the last tap, a counter of batches, or a blur filter, which is checked
against its definition instead. Anything else is an error that lists the names.

Notation: ``state`` maps a checkpoint's names to arrays, ``weights`` is the nested
dictionary that the network takes.

Differs from the reference in: nothing.

Reference: PyTorch's ``load_state_dict(strict=True)``, which this makes stricter.
"""

from collections.abc import Mapping, Set
from typing import Any

import jax
import numpy as np

from gladjax.backbone import winograd
from gladjax.backbone.checkpoint import CheckpointError
from gladjax.backbone.names import Names

_SHOWN = 6
# Axes of a tensor of PyTorch in our order, by rank: ours is (kh, kw, in, out).
_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


def fill(table: Names, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fills a network's weights from a checkpoint that fits it (`check`).

    Args:
      table: Name in the checkpoint of each path in the network.
      state: The checkpoint.

    Returns:
      Nested dictionary of float32 (or float64, where the tensor is) NumPy arrays.
    """
    return nested({path: arrange(state[key]) for path, key in table.items()})


def check(
    abstract: Mapping[str, Any],
    table: Names,
    state: Mapping[str, np.ndarray],
    *,
    ignored: Set[str] = frozenset(),
    name: str = "checkpoint",
) -> None:
    """Checks that a checkpoint fills a network, without copying anything.

    Args:
      abstract: Nested dictionary of the shapes wanted.
      table: Name in the checkpoint of each path in ``abstract``.
      state: The checkpoint.
      ignored: Names that the checkpoint may hold and the network does not use.
      name: What to call the checkpoint in messages.

    Raises:
      CheckpointError: If names are missing or left over, or shapes differ.
    """
    shapes = flat(abstract)
    if set(shapes) != set(table) or len(set(table.values())) != len(table):
        raise AssertionError("the table of names does not match the network")
    missing = [key for key in table.values() if key not in state]
    extra = [key for key in state if key not in ignored and key not in table.values()]
    if missing or extra:
        raise CheckpointError(
            f"{name} does not fit the network: {_list('missing', missing)}"
            f"{'; ' if missing and extra else ''}{_list('not known', extra)}"
        )
    wrong = [
        f"{key} ({state[key].shape} instead of {_theirs(shapes[path].shape)})"
        for path, key in table.items()
        if state[key].shape != _theirs(shapes[path].shape)
    ]
    if wrong:
        raise CheckpointError(
            f"{name} does not fit the network: {_list('of another shape', wrong)}"
        )


def check_filters(
    state: Mapping[str, np.ndarray],
    filters: Mapping[str, np.ndarray],
    *,
    name: str = "checkpoint",
) -> None:
    """Checks the fixed tensors of a checkpoint against their definition.

    Args:
      state: The checkpoint.
      filters: The values wanted, by name; a filter that is absent is not checked.
      name: What to call the checkpoint in messages.

    Raises:
      CheckpointError: If a filter differs in shape, or by more than 1e-6.
    """
    for key, wanted in filters.items():
        found = state.get(key, wanted)
        if found.shape != wanted.shape or not np.allclose(found, wanted, 0.0, 1e-6):
            raise CheckpointError(
                f"{name}: the blur filter {key} is not the one of this network "
                f"(another filter_size?)"
            )


def arrange(tensor: np.ndarray) -> np.ndarray:
    """Returns a tensor in our layout: outputs last, float32 unless float64.

    Args:
      tensor: A kernel ``(out, in, kh, kw)``, a matrix ``(out, in)`` or a vector.
    """
    dtype = np.float64 if tensor.dtype == np.float64 else np.float32
    axes = _AXES.get(tensor.ndim)
    return np.ascontiguousarray(np.transpose(tensor, axes) if axes else tensor, dtype)


def fold_layer(
    layer: Mapping[str, np.ndarray], epsilon: float
) -> dict[str, np.ndarray]:
    """Folds a batch norm into the convolution before it, in float64.

    Args:
      layer: ``kernel``, ``scale``, ``offset``, ``mean``, ``variance``.
      epsilon: Added to the variance.

    Returns:
      ``kernel`` and ``bias``, in the dtype of the kernel.
    """
    wide = {name: np.asarray(value, np.float64) for name, value in layer.items()}
    gain = wide["scale"] / np.sqrt(wide["variance"] + epsilon)
    dtype = layer["kernel"].dtype
    return {
        "kernel": (wide["kernel"] * gain).astype(dtype),
        "bias": (wide["offset"] - wide["mean"] * gain).astype(dtype),
    }


def fold(weights: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    """Folds every batch norm of a network into the convolution before it.

    Args:
      weights: Nested dictionary of an unfolded network.
      epsilon: The network's constant.

    Returns:
      Nested dictionary of the folded network.
    """
    if "variance" in weights:
        return dict(fold_layer(weights, epsilon))
    return {
        name: fold(value, epsilon) if isinstance(value, Mapping) else value
        for name, value in weights.items()
    }


def transform(weights: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Transforms the kernels that a network wants so (see `winograd`).

    Args:
      weights: Nested dictionary of a folded network.
      wanted: The same, abstract, with `winograd.NAMES` in place of such a ``kernel``.

    Returns:
      Nested dictionary of the shapes wanted.
    """
    if winograd.NAMES[0] in wanted:
        matrices = winograd.transform(weights["kernel"])
        return {
            "bias": weights["bias"],
            **dict(zip(winograd.NAMES, matrices, strict=True)),
        }
    result = {}
    for name, value in weights.items():
        inner = wanted[name]
        result[name] = transform(value, inner) if isinstance(inner, Mapping) else value
    return result


def flat(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of a nested dictionary by their paths.

    Args:
      weights: Nested dictionary.
    """
    found = {}
    for name, value in weights.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{path}": leaf for path, leaf in flat(value).items()}
        else:
            found[name] = value
    return found


def nested(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dictionary of leaves by their paths, the inverse of `flat`.

    Args:
      weights: Leaves by path.
    """
    found: dict[str, Any] = {}
    for path, leaf in weights.items():
        *parents, name = path.split("/")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = leaf
    return found


def to_jax(weights: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a pytree
    """Returns the weights as JAX arrays."""
    return jax.device_put(dict(weights))  # Compiles nothing, unlike `asarray`.


def _theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of ours in PyTorch's order."""
    axes = _AXES.get(len(shape), range(len(shape)))
    return tuple(shape[axis] for axis in np.argsort(axes))


def _list(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"
