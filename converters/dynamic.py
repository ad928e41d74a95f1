"""Whether a model has shapes that a runtime knows only while it runs (pure).

It matters to bit-equality: tflite_runtime 2.14 takes XNNPACK for a model only when all its shapes are known after
preparation, and else its built-in kernels for the whole of it, which round differently. A slice must be handled as
its whole is. So slices of a *dynamic* model get two tiny operators that make them dynamic too (`converters.
flatbuffer`), and a model that is not dynamic is not cut where a computed shape would cross, since a shape that
comes from outside makes the slice dynamic. ai_edge_litert takes XNNPACK either way.

A TRANSPOSE of anything but float32 has the same effect there: XNNPACK takes the operator, fails, and gives back
the whole model. So a model with one counts as dynamic.

The rules were found with tiny models, one operator each, in tflite_runtime 2.14.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from converters.dataflow import Subgraph

# Operators whose outputs are known after preparation when their inputs are; SHAPE and RANK need only the shape.
_FOLDED = frozenset({"CONCATENATION", "GATHER", "MUL", "RESHAPE", "STRIDED_SLICE"})
_SHAPE_ONLY = frozenset({"SHAPE", "RANK"})
_ALWAYS_DYNAMIC = frozenset({"HASHTABLE_FIND"})
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
    "NON_MAX_SUPPRESSION_V4": (2,),
    "NON_MAX_SUPPRESSION_V5": (2,),
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


@dataclass(frozen=True)
class Preparation:
    """What a runtime knows of a model before it runs.

    prepared: tensors of the model, no constants, whose values it knows. dynamic: whether it lacks some shape.
    undelegated: the first subgraph of the file from which on tflite_runtime takes its own kernels; a number behind
    the last one when it takes XNNPACK for all.
    """

    prepared: frozenset[int]
    dynamic: bool
    undelegated: int


def preparation(
    subgraphs: Sequence[Subgraph], calls: Sequence[Sequence[Sequence[int]]], callees_first: Iterable[int]
) -> Preparation:
    """What a runtime knows of a model whose file has these subgraphs. `calls` holds what each operator of each
    calls itself; `callees_first` lists the subgraphs that the model needs. Tensors with data are `constant`.

    tflite_runtime gives XNNPACK one subgraph after the other, and stops at the first that is dynamic. Where the
    last one has nothing in it, it takes all of them back.
    """
    needed = list(callees_first)
    dynamic = [False] * len(subgraphs)
    for index in (*needed, *sorted(set(range(len(subgraphs))).difference(needed))):
        dynamic[index] = _prepared(subgraphs, index, calls[index], dynamic)[1]
    last = subgraphs[-1]
    if len(subgraphs) > 1 and not (last.operators or last.tensors):
        dynamic[0] = True
    known = _prepared(subgraphs, 0, calls[0], dynamic)[0]
    return Preparation(known, dynamic[0], (*dynamic, True).index(True))


def _prepared(
    subgraphs: Sequence[Subgraph], index: int, calls: Sequence[Sequence[int]], dynamic: Sequence[bool]
) -> tuple[frozenset[int], bool]:
    """(the tensors of one subgraph whose values are known after preparation, whether it is dynamic)."""
    tensors = subgraphs[index].tensors
    known: set[int] = set()
    found = False
    for operator in subgraphs[index].operators:
        reads = [t for t in operator.inputs if t >= 0]
        makes = [tensors[t] for t in operator.outputs if t >= 0]
        shaping = [
            operator.inputs[i]
            for i in _SHAPE_INPUTS.get(operator.name, ())
            if i < len(operator.inputs) and operator.inputs[i] >= 0
        ]
        if (
            any(t not in known and not tensors[t].constant for t in shaping)
            or operator.name in _ALWAYS_DYNAMIC
            or (operator.name == "TRANSPOSE" and any(t.dtype != "float32" for t in makes))
            or any(t.dtype == "string" for t in makes)
            or (operator.name == "READ_VARIABLE" and not all(t.shape for t in makes))
            or _calls_dynamic(operator.name, [subgraphs[k] for k in calls[operator.index]], dynamic)
        ):
            found = True
        folded = operator.name in _FOLDED and all(t in known or tensors[t].constant for t in reads)
        if folded or operator.name in _SHAPE_ONLY:
            known.update(t.index for t in makes)
    return frozenset(known), found


def _calls_dynamic(name: str, called: Sequence[Subgraph], dynamic: Sequence[bool]) -> bool:
    """Whether the results of a call have shapes that are known only once it has run."""
    if not called or name == "CALL_ONCE":
        return False
    if any(dynamic[subgraph.index] for subgraph in called):
        return True
    made = [tuple(subgraph.tensors[t].shape for t in subgraph.outputs) for subgraph in called]
    if name == "IF":
        return made[0] != made[-1]
    if name == "WHILE":
        body = called[-1]
        return tuple(body.tensors[t].shape for t in body.inputs) != made[-1]
    return False
