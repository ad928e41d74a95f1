"""What kernels hold besides tensors and weights, in bytes (pure)."""

from __future__ import annotations

from converters.graph import Graph, Operator, dtype_bytes

_POINTER_BYTES = 8


def indirection_bytes(graph: Graph, operator: Operator) -> int:
    """XNNPACK's indirection buffer of a convolution: a pointer for each output position and kernel tap.

    Neighbouring outputs of a depthwise convolution share the columns of taps that they both cover
    (XNNPACK src/operators/convolution-nhwc.c). 0 for other operators, and where shapes are not known.
    """
    shapes = _shapes(graph, operator, ("CONV_2D", "DEPTHWISE_CONV_2D"))
    if shapes is None:
        return 0
    read, (_, height, width, _), made = shapes
    if operator.name == "CONV_2D":
        one_to_one = height * width == 1 and made[1:3] == read[1:3]
        return 0 if one_to_one else made[1] * made[2] * height * width * _POINTER_BYTES
    stride = max(1, round(read[2] / made[2]))
    return made[1] * (height * width + (made[2] - 1) * min(stride, width) * height) * _POINTER_BYTES


def im2col_bytes(graph: Graph, operator: Operator) -> int:
    """The copy of a built-in CONV_2D kernel: for each output position all the inputs that the kernel covers.

    0 for other operators and 1x1 kernels, and where shapes are not known.
    """
    shapes = _shapes(graph, operator, ("CONV_2D",))
    if shapes is None:
        return 0
    _, (_, height, width, channels), made = shapes
    each = round(dtype_bytes(graph.tensors[operator.inputs[1]].dtype))
    return made[1] * made[2] * height * width * channels * each if height * width > 1 else 0


def _shapes(
    graph: Graph, operator: Operator, names: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """The shapes of data, weights and result, if all have four known dimensions."""
    used = (*operator.inputs[:2], *operator.outputs[:1])
    if operator.name not in names or len(used) != 3 or min(used) < 0:
        return None
    read, weights, made = (graph.tensors[t].shape for t in used)
    if any(len(shape) != 4 or min(shape) < 1 for shape in (read, weights, made)):
        return None
    return read, weights, made
