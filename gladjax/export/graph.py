"""Pillow's resize as nodes of an ONNX graph, for images of any size.

Weights are formed in float64 as Pillow forms them, rounded to whole numbers of
``2^-22``, and multiplied in float64, which holds every sum exactly; the result is
rounded to 8 bits after each axis. So the levels are Pillow's, as in `pixels`.

Notation: ``n`` pixels of an axis, ``m`` of the new one.

Differs from the reference in: nothing.

Reference: Pillow, ``src/libImaging/Resample.c``.
"""

from typing import Any

import numpy as np

from gladjax.export.pixels import BITS
from gladjax.outputs import SOFTWARE


class Nodes:
    """Nodes of a graph in the making, and their constants."""

    def __init__(self, onnx: Any, prefix: str) -> None:  # noqa: ANN401 - the module
        """Begins without nodes.

        Args:
          onnx: The module, which is optional.
          prefix: What all names begin with.
        """
        self._onnx, self._prefix = onnx, prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any) -> str:  # noqa: ANN401 - array-like
        """Returns the name of a new constant."""
        name = f"{self._prefix}constant{len(self.constants)}"
        array = np.asarray(value, dtype)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401
        """Returns the name of what a new node gives."""
        name = f"{self._prefix}{kind}{len(self.nodes)}"
        make = self._onnx.helper.make_node
        self.nodes.append(make(kind, list(inputs), [name], name=name, **attributes))
        return name


def whole(
    onnx: Any,  # noqa: ANN401 - the module
    model: Any,  # noqa: ANN401 - its ModelProto
    shape: tuple[int, int] | None,
    size: tuple[int, int],
) -> bytes:
    """Returns a model of levels with the resize before it.

    Args:
      onnx: The module ``onnx``.
      model: The model, whose input ``levels`` is an image of ``size``.
      shape: Height and width of the images, None for any.
      size: Height and width of the levels.

    Raises:
      ValueError: If it is larger than an ONNX file can be.
    """
    nodes, inner = Nodes(onnx, "resize/"), model.graph
    nodes.add("Identity", resize(nodes, "image", size))
    nodes.nodes[-1].output[0] = "levels"
    later = list(inner.node)
    del inner.node[:], inner.input[:]
    inner.node.extend([*nodes.nodes, *later])
    inner.initializer.extend(nodes.constants)
    sides = ("height", "width") if shape is None else shape
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.UINT8
    inner.input.extend([make("image", kind, [*sides, 3])])
    model.producer_name = SOFTWARE
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ValueError("the model is larger than 2 GB, which no ONNX file can be")
    onnx.checker.check_model(model)
    return model.SerializeToString()


def resize(nodes: Nodes, image: str, size: tuple[int, int]) -> str:
    """Adds the nodes of a resize.

    Args:
      nodes: The nodes.
      image: Name of an 8-bit image, ``(h, w, 3)``, of any size.
      size: Height and width wanted.

    Returns:
      Name of the levels, float32, ``(H, W, 3)``.
    """
    double = nodes._onnx.TensorProto.DOUBLE
    columns = nodes.add(
        "Transpose", nodes.add("Cast", image, to=double), perm=[1, 0, 2]
    )
    columns = _along(nodes, columns, size[1])
    rows = _along(nodes, nodes.add("Transpose", columns, perm=[1, 0, 2]), size[0])
    return nodes.add("Cast", rows, to=nodes._onnx.TensorProto.FLOAT)


def _along(nodes: Nodes, image: str, m: int) -> str:
    """Resizes along the leading axis, ``(n, w, 3)`` to ``(m, w, 3)``."""
    add, double = nodes.add, nodes._onnx.TensorProto.DOUBLE

    def number(value: Any) -> str:  # noqa: ANN401 - array-like
        return nodes.constant(value, np.float64)

    shape = add("Shape", image)
    whole = add("Gather", shape, nodes.constant(0, np.int64))
    n = add("Cast", whole, to=double)
    scale = add("Div", n, number(m))
    support = add("Max", scale, number(1))
    centre = add("Mul", number(np.arange(m)[:, None] + 0.5), scale)
    half = number(0.5)
    first = add("Floor", add("Add", add("Sub", centre, support), half))
    last = add("Floor", add("Add", add("Add", centre, support), half))
    zero, one = (nodes.constant(i, np.int64) for i in (0, 1))
    x = add("Cast", add("Range", zero, whole, one), to=double)
    away = add("Abs", add("Add", add("Sub", x, centre), half))
    value = add("Sub", number(1), add("Div", away, support))
    inside = add("And", add("GreaterOrEqual", x, first), add("Less", x, last))
    value = add("Where", inside, add("Max", value, number(0)), number(0))
    axis = nodes.constant([1], np.int64)
    share = add("Div", value, add("ReduceSum", value, axis, keepdims=1))
    unit = number(1 << BITS)
    weights = add("Floor", add("Add", add("Mul", share, unit), half))
    flat = add("Reshape", image, nodes.constant([0, -1], np.int64))
    sums = add("MatMul", weights, flat)
    levels = add("Floor", add("Add", add("Div", sums, unit), half))
    return add("Reshape", levels, nodes.constant([m, -1, 3], np.int64))
