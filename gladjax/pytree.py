"""Frozen dataclasses that are JAX pytrees.

A parameter bundle is a frozen dataclass without behaviour. `pytree` registers such a
class with JAX. Flattening yields the fields; unflattening fills a new instance without
calling ``__init__``, because JAX rebuilds instances with axes, shapes, ``None`` and
batched arrays in the fields, and a constructor that checks its arguments would refuse
them. Fields made by `static` are compile-time constants: they are hashable, belong to
the tree's structure and are compared, not traced.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs: Any) -> Any:  # noqa: ANN401 - mirrors dataclasses.field
    """Declares a field that belongs to the tree's structure, not to its leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and registers it as a JAX pytree.

    Args:
      cls: A class with annotated fields.

    Returns:
      The dataclass, registered with named keys, so that ``jax.tree_util`` paths read
      like attribute access.
    """
    data = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(data)  # type: ignore[arg-type]
    leaves = tuple(f.name for f in fields if not f.metadata.get("static", False))
    constants = tuple(f.name for f in fields if f.metadata.get("static", False))

    def flatten(instance: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children = tuple(getattr(instance, name) for name in leaves)
        return children, tuple(getattr(instance, name) for name in constants)

    def flatten_with_keys(
        instance: T,
    ) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        children, meta = flatten(instance)
        keys = (jax.tree_util.GetAttrKey(name) for name in leaves)
        return tuple(zip(keys, children, strict=True)), meta

    def unflatten(meta: tuple[Any, ...], children: Iterable[Any]) -> T:
        instance = object.__new__(data)
        for name, value in zip(leaves, children, strict=True):
            object.__setattr__(instance, name, value)
        for name, value in zip(constants, meta, strict=True):
            object.__setattr__(instance, name, value)
        return instance

    jax.tree_util.register_pytree_with_keys(data, flatten_with_keys, unflatten, flatten)
    return data
