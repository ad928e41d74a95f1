"""Which float16 constants a runtime hands to XNNPACK as they are, without their DEQUANTIZE (pure).

It matters to bit-equality: ai_edge_litert does so with what CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED read as
weights or bias, unless some other operator of the model reads it too (`PrepareOpsToDelegate` in LiteRT's
tflite/delegates/xnnpack/xnnpack_delegate.cc: `f16_input_tensor_for_dequant_f32_tensor_`). XNNPACK then takes a
float16 bias beside float16 weights only; beside any others it gives the operator back to the built-in kernel, which
rounds differently, or, where the weights are int8, refuses the model. So who else reads a bias or weights decides
how an operator computes, and a slice that lacks this reader must have a *witness* in its place: a SHAPE, which
nothing reads.

Nothing else depends on other readers: not float16 weights by themselves, nor what is made from int8 or sparse
constants, nor float32 ones, nor TRANSPOSE_CONV, nor anything in tflite_runtime, which dequantises every constant.
The rules were found with tiny models, one for each combination of operator, weights, bias and other reader, in
ai_edge_litert 2.3.0 and tflite_runtime 2.14.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from converters.graph import Graph

_TAKE_HALVES = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_WEIGHTS, _BIAS = 1, 2


def witnessed(graph: Graph, operators: Sequence[int]) -> tuple[int, ...]:
    """The tensors of a slice of `operators` (by index in the model) that need a witness, sorted.

    A slice in which every operator finds its bias and weights as in the whole, or as far as it makes a difference,
    needs none.
    """
    readers: dict[int, list[int]] = {
        graph.operators[i].outputs[0]: [] for i in operators if _dequantises_half(graph, i)
    }
    for index in operators if readers else ():
        for tensor in set(graph.operators[index].inputs) & readers.keys():
            readers[tensor].append(index)
    alone = {tensor for tensor, indices in readers.items() if indices and _all_take(graph, tensor, indices)}
    whole = {tensor for tensor in alone if _all_take(graph, tensor, graph.readers[tensor])}
    if any(
        _is_given_back(graph, index, alone) != _is_given_back(graph, index, whole)
        for tensor in alone - whole
        for index in readers[tensor]
    ):
        return tuple(sorted(alone - whole))
    return ()


def _dequantises_half(graph: Graph, index: int) -> bool:
    operator = graph.operators[index]
    return (
        operator.name == "DEQUANTIZE"
        and operator.constant
        and len(operator.inputs) == len(operator.outputs) == 1
        and graph.tensors[operator.inputs[0]].dtype == "float16"
    )


def _all_take(graph: Graph, tensor: int, readers: Sequence[int]) -> bool:
    """Whether all of `readers` take `tensor` in half."""
    rows = [graph.operators[index] for index in readers]
    return all(row.name in _TAKE_HALVES and row.inputs[0] != tensor for row in rows)


def _is_given_back(graph: Graph, index: int, halves: set[int]) -> bool:
    """Whether XNNPACK does not take the operator for its bias in half."""
    inputs = graph.operators[index].inputs
    return len(inputs) > _BIAS and inputs[_BIAS] in halves and inputs[_WEIGHTS] not in halves
