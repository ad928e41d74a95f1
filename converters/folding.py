"""Shapes of fixed size as constants: the values of SHAPE operators that do not depend on any frame (pure).

Many models compute target shapes while they run (SHAPE, STRIDED_SLICE, PACK, then RESHAPE). Cut in between,
a slice would be fed its own shapes by message, and could not even be warmed up with zeros. Where the shape that
SHAPE reads is the same for every frame, its value becomes a constant, what follows from it becomes constant
operators, and none of it crosses a cut. The runtime does the same when it prepares the whole model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from converters import schema
from converters.graph import Graph, Operator, Tensor, rebuilt

# The shape of what these make depends on values, not only on the shapes of what they read.
_DATA_SHAPED = frozenset(
    {
        "DYNAMIC_UPDATE_SLICE",
        "NON_MAX_SUPPRESSION_V4",
        "NON_MAX_SUPPRESSION_V5",
        "SEGMENT_SUM",
        "SPARSE_TO_DENSE",
        "UNIQUE",
        "WHERE",
    }
)
# Their first input is a value that decides a shape or an axis too, not only data.
_FIRST_DECIDES = frozenset({"CONV_3D_TRANSPOSE", "FILL", "RANGE", "SPLIT", "TRANSPOSE_CONV"})
_INTEGERS = frozenset({"int32", "int64", "uint32", "int16", "uint16"})


def fold_shapes(graph: Graph) -> Graph:
    """`graph` with the outputs of SHAPE as constants (`Graph.values`) where every frame gives the same.

    `graph` must have the shapes of a run (`converters.shapes`); pipelines take frames of the declared shapes only.
    """
    known, _ = known_and_fixed(graph)
    values: dict[int, bytes] = {}
    for operator in graph.operators:
        if operator.name == "SHAPE" and not operator.constant and known.issuperset(operator.outputs):
            shape = graph.tensors[operator.inputs[0]].shape
            dtype = np.dtype(graph.tensors[operator.outputs[0]].dtype)
            values[operator.outputs[0]] = np.array(shape, dtype=dtype.newbyteorder("<")).tobytes()
    return rebuilt(graph, values) if values else graph


def known_and_fixed(graph: Graph) -> tuple[set[int], set[int]]:
    """(the tensors whose values are the same for every frame, those whose shapes are)."""
    builtin = {name for name in vars(schema.classes().BuiltinOperator) if not name.startswith("_")}
    known = {t.index for t in graph.tensors if t.constant}
    kept = {t.index for t in graph.tensors if t.variable}
    fixed = known | {i for i in (*graph.inputs, *kept) if _is_known_shape(graph.tensors[i])}
    for operator in (graph.operators[i] for i in graph.place):
        reads = [t for t in operator.inputs if t >= 0]
        makes = [t for t in operator.outputs if t >= 0]
        unclear = operator.name in _DATA_SHAPED or operator.name not in builtin or operator.subgraphs
        if unclear or not fixed.issuperset(reads):
            continue
        if operator.name == "SHAPE":
            if len(reads) != 1 or len(makes) != 1 or graph.tensors[makes[0]].variable:
                continue
            if _is_known_shape(graph.tensors[operator.inputs[0]]) and graph.tensors[makes[0]].dtype in _INTEGERS:
                known.update(makes)
            fixed.update(makes)
        elif known.issuperset(_deciding(operator, graph.tensors)):
            fixed.update(makes)
            if known.issuperset(reads) and operator.repeatable:
                known.update(makes)
    return known, fixed


def _deciding(operator: Operator, tensors: Sequence[Tensor]) -> Collection[int]:
    """The inputs whose values may decide the shape of what the operator makes; rather too many than too few."""
    first = 0 if operator.name in _FIRST_DECIDES else 1
    return [t for t in operator.inputs[first:] if t >= 0 and tensors[t].dtype in _INTEGERS]


def _is_known_shape(tensor: Tensor) -> bool:
    return min(tensor.shape, default=0) >= 0
