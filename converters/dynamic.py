"""Whether a model has shapes that a runtime knows only while it runs (pure).

It matters to bit-equality: tflite_runtime 2.14 takes XNNPACK for a model only when all its shapes are known after
preparation, and else its built-in kernels for the whole of it, which round differently. A slice must be handled as
its whole is. So slices of a *dynamic* model get two tiny operators that make them dynamic too (`converters.
flatbuffer`), and a model that is not dynamic is not cut where a computed shape would cross, since a shape that
comes from outside makes the slice dynamic. ai_edge_litert takes XNNPACK either way.

The rules were found with tiny models, one operator each, in tflite_runtime 2.14.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converters.dataflow import Subgraph

# Operators whose outputs are known after preparation when their inputs are; SHAPE and RANK need only the shape.
_FOLDED = frozenset({"CONCATENATION", "GATHER", "MUL", "RESHAPE", "STRIDED_SLICE"})
_SHAPE_ONLY = frozenset({"SHAPE", "RANK"})
# Which inputs determine the shape of the output.
_SHAPE_INPUTS: Mapping[str, tuple[int, ...]] = {
    "ARG_MAX": (1,),
    "ARG_MIN": (1,),
    "BATCH_TO_SPACE_ND": (1, 2),
    "BROADCAST_TO": (1,),
    "DYNAMIC_UPDATE_SLICE": (),
    "EXPAND_DIMS": (1,),
    "FILL": (0,),
    "IRFFT2D": (1,),
    "MEAN": (1,),
    "MIRROR_PAD": (1,),
    "MULTINOMIAL": (1,),
    "ONE_HOT": (1,),
    "PAD": (1,),
    "PADV2": (1,),
    "RANDOM_STANDARD_NORMAL": (0,),
    "RANDOM_UNIFORM": (0,),
    "RANGE": (0, 1, 2),
    "REDUCE_ALL": (1,),
    "REDUCE_ANY": (1,),
    "REDUCE_MAX": (1,),
    "REDUCE_MIN": (1,),
    "REDUCE_PROD": (1,),
    "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "RFFT2D": (1,),
    "SCATTER_ND": (2,),
    "SEGMENT_SUM": (1,),
    "SLICE": (1, 2),
    "SPACE_TO_BATCH_ND": (1, 2),
    "SPARSE_TO_DENSE": (1,),
    "SPLIT": (0,),
    "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2, 3),
    "SUM": (1,),
    "TILE": (1,),
    "TOPK_V2": (1,),
    "TRANSPOSE": (1,),
    "TRANSPOSE_CONV": (0,),
    "UNIQUE": (0,),
    "WHERE": (0,),
}


def prepared_tensors(main: Subgraph, called: Mapping[int, Subgraph]) -> tuple[frozenset[int], bool]:
    """(tensors of the model, no constants, whose values a runtime knows before it runs; whether it is dynamic).

    Tensors are `constant` where they have data in the file. A model is dynamic when a subgraph that it calls is.
    """
    known, dynamic = _prepared(main)
    return known, dynamic or any(_prepared(subgraph)[1] for subgraph in called.values())


def _prepared(subgraph: Subgraph) -> tuple[frozenset[int], bool]:
    known: set[int] = set()
    dynamic = False
    for operator in subgraph.operators:
        reads = [t for t in operator.inputs if t >= 0]
        shaping = [
            operator.inputs[i]
            for i in _SHAPE_INPUTS.get(operator.name, ())
            if i < len(operator.inputs) and operator.inputs[i] >= 0
        ]
        if any(t not in known and not subgraph.tensors[t].constant for t in shaping):
            dynamic = True
        folded = operator.name in _FOLDED and all(t in known or subgraph.tensors[t].constant for t in reads)
        if folded or operator.name in _SHAPE_ONLY:
            known.update(t for t in operator.outputs if t >= 0)
    return frozenset(known), dynamic
