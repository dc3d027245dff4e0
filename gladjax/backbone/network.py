"""An architecture as a pure function, and its assembly from a checkpoint.

A `Family` is an NNX module class with its table of names. `Network` is the pure
function of one member: hashable by its spec, so that two backbones of the same
architecture share compiled programs. `assemble` turns tensors into a `Backbone`.

Notation: a *spec* is the hashable description of one architecture; it has at least the
fields ``head`` (classes of the classifier, 0 for none) and ``folded``.

Differs from the reference in: nothing.

Reference: the Flax documentation, "NNX functional API".
"""

import dataclasses
import functools
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gladjax.backbone import matching
from gladjax.backbone.base import Backbone, from_function
from gladjax.backbone.checkpoint import content_hash
from gladjax.backbone.names import Names, counters

LAYERS = ("layer1", "layer2", "layer3")
CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Family:
    """Architectures that share a module class.

    Attributes:
      module: Where its NNX module class is, which is built from a spec.
      names: Table of names of a spec's unfolded network.
      epsilon: Constant of its batch norms.
      filters: Fixed tensors in the checkpoint (blur filters) and the values they must
        have, by name.
      ignored: Other tensors that a checkpoint may hold.
      classifies: Whether a classifier can be built.
      dims: Channels of the maps of a spec, None where they are found by tracing.
      hastens: Whether specs have a field ``fast`` (see `winograd`).
    """

    module: str
    names: Callable[[Any], Names]
    epsilon: float
    filters: Callable[[Any], Mapping[str, np.ndarray]] = lambda _: {}
    ignored: frozenset[str] = frozenset()
    classifies: bool = True
    dims: Callable[[Any], tuple[int, ...] | None] = lambda _: None
    hastens: bool = False


@dataclasses.dataclass(frozen=True)
class Network:
    """The pure function ``(weights, images) -> maps`` of one architecture."""

    family: Family
    spec: Any

    def __call__(self, weights: Any, images: Array) -> dict[str, Array]:  # noqa: ANN401
        """Computes in the dtype of the weights."""
        from flax import nnx  # See `modules`.

        graph, _ = template(self.family.module, self.spec)
        dtype = jax.tree.leaves(weights)[0].dtype
        return nnx.merge(graph, weights)(images.astype(dtype))


@functools.lru_cache(maxsize=64)
def template(
    module: str,
    spec: Any,  # noqa: ANN401 - any hashable spec
) -> tuple[Any, dict[str, Any]]:
    """Returns graph definition and abstract weights of a module, allocating nothing.

    Args:
      module: Where the NNX module class is.
      spec: What it is built from.
    """
    from flax import nnx  # See `modules`.

    kind = pkgutil.resolve_name(module)
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(spec)))
    return graph, nnx.to_pure_dict(state)


def assemble(
    family: Family,
    spec: Any,  # noqa: ANN401 - any hashable spec
    state: Mapping[str, np.ndarray],
    *,
    sha256: str = "",
    **description: Any,  # noqa: ANN401 - keywords of from_function
) -> Backbone:
    """Builds a backbone from the tensors of a checkpoint.

    Args:
      family: The architecture's family.
      spec: The architecture; ``spec.folded`` says in which form.
      state: Tensors by name, all of them used or ignored by name.
      sha256: Hash of the tensors up to the last tap if they were checked before, with
        which nothing is checked.
      **description: Keywords of `from_function`.

    Returns:
      The backbone, weights in float32 (float64 where the tensors are and x64 is on).

    Raises:
      CheckpointError: If the tensors are not exactly those of the architecture.
    """
    unfolded = dataclasses.replace(spec, folded=False)
    tapped = family.names(dataclasses.replace(unfolded, head=0)).values()
    digest = content_hash({key: state[key] for key in tapped if key in state})
    if spec.head or digest != sha256:
        check(family, unfolded, state, name=description["name"])
    weights = matching.fill(family.names(unfolded), state)
    if spec.folded:
        spec, weights = _optimise(family, spec, weights)
    backbone = from_function(
        Network(family, spec),
        matching.to_jax(weights),
        layers=LAYERS,
        dims=family.dims(spec),
        **description,
    )
    return dataclasses.replace(backbone, sha256=digest)


def check(
    family: Family,
    spec: Any,  # noqa: ANN401 - any hashable spec
    state: Mapping[str, np.ndarray],
    *,
    name: str = "checkpoint",
) -> Names:
    """Checks that tensors are exactly those of an architecture.

    Args:
      family: The architecture's family.
      spec: The architecture, not folded.
      state: Tensors by name.
      name: What to call the tensors in messages.

    Returns:
      The name in ``state`` of each weight.

    Raises:
      CheckpointError: If a tensor is missing, not known or of another shape, or a
        blur filter is not the architecture's.
    """
    _, abstract = template(family.module, spec)
    table = family.names(spec)
    head = spec.head or (CLASSES if family.classifies else 0)
    whole = dataclasses.replace(spec, head=head)
    later, filters = family.names(whole), family.filters(whole)
    matching.check_filters(state, filters, name=name)
    ignored = (set(later.values()) - set(table.values())) | counters(later)
    ignored |= set(filters) | family.ignored
    matching.check(abstract, table, state, ignored=ignored, name=name)
    return table


def fold(backbone: Backbone) -> Backbone:
    """Folds the batch norms of a backbone into its convolutions.

    Args:
      backbone: A backbone of a named network.

    Returns:
      The same function with fewer operations, in the form that is fast on the default
      device; a folded backbone is returned as it is.

    Raises:
      ValueError: If the backbone is not one of a named network.
    """
    function = described(backbone)
    if function.spec.folded:
        return backbone
    weights = jax.tree.map(np.asarray, backbone.weights)
    spec, weights = _optimise(function.family, function.spec, weights)
    return dataclasses.replace(
        backbone,
        weights=matching.to_jax(weights),
        apply=Network(function.family, spec),
    )


def _optimise(
    family: Family,
    spec: Any,  # noqa: ANN401 - any hashable spec
    weights: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Folds the batch norms and, where the CPU computes, transforms kernels."""
    spec = dataclasses.replace(spec, folded=True)
    folded = matching.fold(weights, family.epsilon)
    if not family.hastens or jax.default_backend() != "cpu":
        return spec, folded
    spec = dataclasses.replace(spec, fast=True)
    _, wanted = template(family.module, spec)
    return spec, matching.transform(folded, wanted)


def classify(
    backbone: Backbone, images: Float[Array | np.ndarray, "n h w 3"]
) -> Float[Array, "n classes"]:
    """Returns the logits of the classifier of a backbone loaded with ``head=True``.

    Args:
      backbone: A backbone with its head.
      images: Preprocessed batch.

    Raises:
      ValueError: If the backbone has no head.
    """
    if not described(backbone).spec.head:
        raise ValueError(f"{backbone.name} was built without its head (head=True)")
    return backbone.apply(backbone.weights, jnp.asarray(images))["logits"]


def described(backbone: Backbone) -> Network:
    """Returns the function of a backbone, which must be that of a named network.

    Args:
      backbone: A backbone.

    Raises:
      ValueError: If its function is another one.
    """
    if not isinstance(backbone.apply, Network):
        raise ValueError(f"{backbone.name} is no network of this package's families")
    return backbone.apply
