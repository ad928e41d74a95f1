"""Which operators a runtime gives to XNNPACK, and which it runs with its built-in kernels (pure).

Found by loading every operator of the real models of benchmarks/ as a slice of its own in ai_edge_litert 2.3.0 and
tflite_runtime 2.14.0 and looking for the delegate's node; the lists also name what XNNPACK's own documentation adds
(tensorflow/lite/delegates/xnnpack/README.md). ai_edge_litert gives it float32, int8 and dynamic-range operators;
tflite_runtime float32 ones only, and none of a model whose shapes it learns while it runs (`converters.dynamic`).
"""

from __future__ import annotations

from converters.graph import Graph, Operator

RUNTIMES = ("ai_edge_litert", "tflite_runtime")
PACKED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
"""The operators whose weights XNNPACK copies into a layout of its own."""

_OLD_FLOAT = PACKED | {
    "ABS",
    "ADD",
    "AVERAGE_POOL_2D",
    "CEIL",
    "CONCATENATION",
    "DEPTH_TO_SPACE",
    "DIV",
    "ELU",
    "FLOOR",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "MAX_POOL_2D",
    "MAXIMUM",
    "MEAN",
    "MINIMUM",
    "MUL",
    "NEG",
    "PAD",
    "PRELU",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "ROUND",
    "SOFTMAX",
    "SPLIT",
    "SQRT",
    "SQUARE",
    "SQUARED_DIFFERENCE",
    "SUB",
    "TANH",
    "TRANSPOSE",
}
_NEW_FLOAT = _OLD_FLOAT | {
    "BATCH_MATMUL",
    "COS",
    "EXP",
    "GELU",
    "LOG",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RSQRT",
    "SIN",
    "SLICE",
    "SPACE_TO_DEPTH",
    "STRIDED_SLICE",
    "SUM",
}
_NEW_QUANTIZED = PACKED | {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "DEPTH_TO_SPACE",
    "DEQUANTIZE",
    "ELU",
    "LEAKY_RELU",
    "LOGISTIC",
    "MAX_POOL_2D",
    "MEAN",
    "MUL",
    "PAD",
    "QUANTIZE",
    "RESIZE_BILINEAR",
    "SPLIT",
    "STRIDED_SLICE",
    "SUB",
    "TANH",
    "TRANSPOSE",
}
# With int8 weights and float32 data; a depthwise convolution of that kind stays with the built-in kernel.
_NEW_HYBRID = frozenset({"CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})


def is_hybrid(graph: Graph, operator: Operator) -> bool:
    """Whether an operator has integer weights and float32 data (dynamic-range quantisation)."""
    tensors = [graph.tensors[t] for t in operator.inputs if t >= 0]
    made = [graph.tensors[t] for t in operator.outputs if t >= 0]
    return (
        operator.name in PACKED | _NEW_HYBRID
        and any(t.constant and t.dtype in ("int8", "uint8", "int4") for t in tensors)
        and any(t.dtype == "float32" for t in made)
    )


def delegated(graph: Graph, operator: Operator, runtime: str) -> bool:
    """Whether `runtime` gives the operator to XNNPACK."""
    data = {graph.tensors[t].dtype for t in operator.outputs if t >= 0}
    data.update(graph.tensors[t].dtype for t in operator.inputs if t >= 0 and not graph.tensors[t].constant)
    if is_hybrid(graph, operator):
        return runtime != "tflite_runtime" and operator.name in _NEW_HYBRID
    if data <= {"float32"}:
        if runtime == "tflite_runtime":
            return not graph.dynamic and operator.name in _OLD_FLOAT
        return operator.name in _NEW_FLOAT and not (operator.name == "RESHAPE" and graph.dynamic)
    return runtime != "tflite_runtime" and data <= {"int8", "float32"} and operator.name in _NEW_QUANTIZED
