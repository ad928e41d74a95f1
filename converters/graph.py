"""The dataflow graph of a .tflite flatbuffer: bytes in, dataclasses out (pure).

The dataclasses are in `converters.dataflow`, the reading of the bytes in `converters.reader`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from converters.costs import multiply_adds
from converters.dataflow import RANDOM_OPERATORS, Graph, Operator, Tensor, dtype_bytes, operator_class
from converters.dynamic import prepared_tensors
from converters.reader import read_rows
from converters.schema import Bytes
from slicemq.errors import ModelError

__all__ = [
    "RANDOM_OPERATORS",
    "Graph",
    "Operator",
    "Tensor",
    "dtype_bytes",
    "operator_class",
    "read_graph",
    "rebuilt",
    "with_shapes",
]

# Real constants have one to three operators behind them; a chain of thousands would take quadratic memory.
_MAX_BEHIND = 1_000_000


def read_graph(data: Bytes) -> Graph:
    """Read the graph of a .tflite file.

    Raises ModelError for what is not a sound .tflite, and for models that cannot be cut rightly yet: several
    subgraphs, state, buffers outside the flatbuffer, more than 2 GB.
    """
    rows = read_rows(data)
    operators = list(rows.operators)
    constant = _check_order(rows.tensors, operators, rows.inputs)
    live = _live(operators, rows.outputs)
    prepared, dynamic = prepared_tensors(operators, {t.index for t in rows.tensors if t.constant})
    tensors = tuple(replace(t, constant=t.index in constant) for t in rows.tensors)
    finished = _finish(tensors, operators, constant, live)
    return Graph(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        description=rows.description,
        tensors=tensors,
        operators=finished,
        inputs=rows.inputs,
        outputs=rows.outputs,
        steps=tuple(op.index for op in finished if not op.constant and not op.dead),
        prepared=prepared,
        dynamic=dynamic,
    )


def _check_order(tensors: Sequence[Tensor], operators: list[Operator], inputs: tuple[int, ...]) -> set[int]:
    """The constant tensors. Raises ModelError unless each tensor is made once and before it is read."""
    made = {t for op in operators for t in op.outputs if t >= 0}
    for index in inputs:
        if tensors[index].constant or index in made:
            raise ModelError(f"tensor {index} ({tensors[index].name}) is an input and has a value of its own")
    constant = {t.index for t in tensors if t.index not in made} - set(inputs)
    known = constant | set(inputs)
    for operator in operators:
        what = f"operator {operator.index} ({operator.name})"
        reads = [t for t in (*operator.inputs, *operator.intermediates) if t >= 0]
        for index in reads:
            if index not in known:
                raise ModelError(f"{what} reads tensor {index} ({tensors[index].name}) before it is made")
        for index in operator.outputs:
            if index < 0:
                continue
            if index in known or tensors[index].constant:
                raise ModelError(f"{what} makes tensor {index} ({tensors[index].name}), which has a value already")
            known.add(index)
        if operator.name not in RANDOM_OPERATORS and constant.issuperset(reads):
            constant.update(t for t in operator.outputs if t >= 0)
    return constant


def _live(operators: list[Operator], outputs: tuple[int, ...]) -> set[int]:
    """The operators on which some output of the model depends."""
    needed = set(outputs)
    live = set()
    for operator in reversed(operators):
        if needed.intersection(operator.outputs):
            live.add(operator.index)
            needed.update(t for t in operator.inputs if t >= 0)
    return live


def _macs(tensors: Sequence[Tensor], operator: Operator) -> int:
    sides = (operator.inputs, operator.outputs)
    inputs, outputs = ([tensors[t].shape if t >= 0 else None for t in side] for side in sides)
    return multiply_adds(operator.name, inputs, outputs)


def with_shapes(graph: Graph, shapes: Mapping[int, tuple[int, ...]]) -> Graph:
    """`graph` with other shapes for some tensors (by index); bytes and multiply-adds follow."""
    tensors = list(graph.tensors)
    for index, shape in shapes.items():
        old = tensors[index]
        nbytes = math.ceil(math.prod(shape) * dtype_bytes(old.dtype))
        tensors[index] = replace(old, shape=shape, nbytes=nbytes)
    operators = tuple(replace(op, macs=_macs(tensors, op)) for op in graph.operators)
    return replace(graph, tensors=tuple(tensors), operators=operators)


def rebuilt(graph: Graph, values: Mapping[int, bytes]) -> Graph:
    """`graph` with `values` (little-endian, by tensor index) as constants, without the operators that make them."""
    tensors = tuple(
        replace(t, constant=True, nbytes=len(values[t.index])) if t.index in values else t for t in graph.tensors
    )
    folded = {graph.producer[t] for t in values}
    kept = [op for op in graph.operators if op.index not in folded]
    constant = {t.index for t in tensors if t.constant}
    for operator in kept:
        if operator.name not in RANDOM_OPERATORS and constant.issuperset(t for t in operator.inputs if t >= 0):
            constant.update(t for t in operator.outputs if t >= 0)
    tensors = tuple(replace(t, constant=t.index in constant) for t in tensors)
    finished = {op.index: op for op in _finish(tensors, kept, constant, _live(kept, graph.outputs))}
    operators = tuple(finished.get(op.index, replace(op, constant=False, dead=True)) for op in graph.operators)
    steps = tuple(op.index for op in operators if not op.constant and not op.dead)
    return replace(graph, tensors=tensors, operators=operators, steps=steps, values={**graph.values, **values})


def _finish(
    tensors: tuple[Tensor, ...], operators: list[Operator], constant: set[int], live: set[int]
) -> tuple[Operator, ...]:
    """The operators with what follows from the whole graph: constant, dead, macs, weight bytes."""
    sizes = {t.buffer: t.weight_bytes for t in tensors}
    behind: dict[int, frozenset[tuple[str, int]]] = {}  # constant tensor -> the buffers and operators behind it
    counted = 0
    finished = []
    for operator in operators:
        sources: set[tuple[str, int]] = set()
        for index in operator.inputs:
            if index in behind:
                sources.update(behind[index])
            elif index >= 0 and tensors[index].weight_bytes:
                sources.add(("buffer", tensors[index].buffer))
        counted += len(sources)
        if counted > _MAX_BEHIND + 16 * len(operators):
            raise ModelError(f"operator {operator.index} ({operator.name}): too many constants stand behind it")
        outputs = [t for t in operator.outputs if t >= 0]
        is_constant = bool(outputs) and constant.issuperset(outputs)
        if is_constant:
            shared = frozenset((*sources, ("operator", operator.index)))
            behind.update(dict.fromkeys(outputs, shared))
        finished.append(
            replace(
                operator,
                constant=is_constant,
                dead=operator.index not in live,
                macs=_macs(tensors, operator),
                weight_bytes=sum(sizes[number] for kind, number in sources if kind == "buffer"),
            )
        )
    return tuple(finished)
