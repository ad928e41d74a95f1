"""The dataflow graph of a .tflite flatbuffer: bytes in, dataclasses out (pure).

The dataclasses are in `converters.dataflow`, the reading of the bytes in `converters.reader`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from converters.costs import multiply_adds
from converters.dataflow import (
    RANDOM_OPERATORS,
    Graph,
    Operator,
    Signature,
    Subgraph,
    Tensor,
    Variable,
    dtype_bytes,
    operator_class,
)
from converters.dynamic import preparation
from converters.order import data_order, run_order
from converters.reader import read_rows
from converters.recompute import with_recomputed
from converters.schema import Bytes, builtin_operators
from converters.state import Effect, effects
from converters.subgraphs import MAX_CALLED, callees
from slicemq.errors import ModelError

__all__ = [
    "RANDOM_OPERATORS",
    "Graph",
    "Operator",
    "Signature",
    "Subgraph",
    "Tensor",
    "Variable",
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

    Raises ModelError for what is not a sound .tflite, and for what cannot be cut rightly: models compiled for a
    delegate, weights in files of their own, inputs and outputs that are handles of variables.
    """
    rows = read_rows(data)
    main = rows.subgraphs[0]
    below = callees([{target for targets in row for target in targets} for row in rows.calls])
    for index in below:
        _check_made(rows.subgraphs[index])
    ordered = {index: rows.subgraphs[index] for index in below if index}
    first = data_order(main.tensors, main.operators)
    ordered[0] = replace(main, operators=tuple(main.operators[i] for i in first))
    effect = effects(ordered, rows.calls)
    changed = frozenset(v for op in main.operators if not op.initialises for v in effect[0][op.index].writes)
    subgraphs = {
        index: _with_effects(rows.subgraphs[index], rows.calls[index], below, effect[index], changed)
        for index in sorted(below)
    }
    main = subgraphs.pop(0)
    users: dict[str, list[tuple[int, bool]]] = {}
    for op in main.operators:
        for variable in op.touches:
            users.setdefault(variable, []).append((op.index, variable in op.state_written))
    order = run_order(main.tensors, main.operators, main.inputs, main.outputs, users) if users else first
    known = preparation(rows.subgraphs, rows.calls, below)
    graph = Graph(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        description=rows.description,
        tensors=main.tensors,
        operators=main.operators,
        inputs=main.inputs,
        outputs=main.outputs,
        steps=(),
        prepared=known.prepared,
        dynamic=known.dynamic,
        undelegated=known.undelegated,
        order=order,
        subgraphs=subgraphs,
        signatures=rows.signatures,
        metadata=rows.metadata,
    )
    return with_recomputed(_derived(graph))


def _check_made(subgraph: Subgraph) -> None:
    """Raises ModelError unless each tensor is made once and, in a called subgraph, before it is read."""
    tensors, called = subgraph.tensors, subgraph.index > 0
    where = f"subgraph {subgraph.index}: " if called else ""
    made = {t for op in subgraph.operators for t in op.outputs if t >= 0}
    for index in dict.fromkeys((*subgraph.inputs, *subgraph.outputs)):
        if tensors[index].dtype == "resource" and not called:
            raise ModelError(f"tensor {index} ({tensors[index].name}), a variable's handle, is an input or output")
    for index in subgraph.inputs:
        if tensors[index].constant or tensors[index].variable or index in made:
            name = tensors[index].name
            raise ModelError(f"{where}tensor {index} ({name}) is an input and has a value of its own")
    known = {t.index for t in tensors if t.index not in made or t.variable}
    for operator in subgraph.operators:
        what = f"{where}operator {operator.index} ({operator.name})"
        for index in (*operator.inputs, *operator.intermediates):
            if called and index >= 0 and index not in known:
                raise ModelError(f"{what} reads tensor {index} ({tensors[index].name}) before it is made")
        for index in operator.outputs:
            if index < 0 or tensors[index].variable:
                continue
            if index in known or tensors[index].constant:
                raise ModelError(f"{what} makes tensor {index} ({tensors[index].name}), which has a value already")
            known.add(index)


def _with_effects(
    subgraph: Subgraph,
    calls: Sequence[Sequence[int]],
    below: Mapping[int, frozenset[int]],
    effect: Mapping[int, Effect],
    changed: frozenset[str],
) -> Subgraph:
    """`subgraph` with what its operators call and do to state; `changed` is what changes from frame to frame."""
    builtin = builtin_operators()
    operators = []
    listed = 0
    for op in subgraph.operators:
        targets = calls[op.index]
        listed += sum(1 + len(below[target]) for target in targets)
        if listed > MAX_CALLED:
            raise ModelError(f"operator {op.index} ({op.name}): operators call subgraphs in too many ways")
        does = effect[op.index]
        operators.append(
            replace(
                op,
                subgraphs=tuple(sorted(set(targets).union(*(below[target] for target in targets)))),
                state_read=tuple(sorted(does.reads)),
                state_written=tuple(sorted(does.writes)),
                repeatable=not does.random and op.name in builtin and changed.isdisjoint(does.touches),
                macs=_macs(subgraph.tensors, op),
            )
        )
    return replace(subgraph, operators=tuple(operators))


def _derived(graph: Graph) -> Graph:
    """`graph` with what follows from its tables: constants, live operators, costs, steps, variables.

    Tensors come as the file has them, or with more of them constant.
    """
    folded = {index for index, op in enumerate(graph.operators) if graph.values.keys() & set(op.outputs)}
    running = [graph.operators[i] for i in graph.order if i not in folded]
    made = {t for op in running for t in op.outputs if t >= 0}
    fixed = {t.index for t in graph.tensors if not t.variable and t.index not in made} - set(graph.inputs)
    constant = set(fixed)
    for op in running:
        if op.repeatable and constant.issuperset(t for t in (*op.inputs, *op.intermediates) if t >= 0):
            constant.update(t for t in op.outputs if t >= 0)
    live = _live(running, graph.outputs)
    tensors = tuple(replace(t, constant=t.index in constant) for t in graph.tensors)
    finished = {op.index: op for op in _finish(graph, tensors, running, constant, live)}
    operators = tuple(finished.get(op.index, replace(op, constant=False, dead=True)) for op in graph.operators)
    operators = tuple(replace(op, recomputed=False) if op.recomputed else op for op in operators)
    steps = tuple(i for i in graph.order if not operators[i].constant and not operators[i].dead)
    users: dict[str, list[int]] = {}
    for step in steps:
        for variable in operators[step].touches:
            users.setdefault(variable, []).append(step)
    written = {variable for step in steps for variable in operators[step].state_written}
    variables = tuple(Variable(name, tuple(users[name])) for name in sorted(written))
    return replace(graph, tensors=tensors, operators=operators, steps=steps, variables=variables)


def _live(operators: Sequence[Operator], outputs: Sequence[int]) -> set[int]:
    """The operators on which some output of the model depends, in this frame or in a later one.

    What writes a variable that a live operator reads is live too, and so is what gives it its first value.
    """
    producer = {t: op for op in operators for t in op.outputs if t >= 0}
    writers: dict[str, list[Operator]] = {}
    initialisers: dict[str, list[Operator]] = {}
    for op in operators:
        for variable in op.state_written:
            (initialisers if op.initialises else writers).setdefault(variable, []).append(op)
    todo = [producer[t] for t in outputs if t in producer]
    live: set[int] = set()
    while todo:
        op = todo.pop()
        if op.index in live:
            continue
        live.add(op.index)
        todo.extend(producer[t] for t in op.inputs if t in producer)
        for variable in op.touches:
            todo.extend(initialisers.pop(variable, ()))
            if variable in op.state_read and not op.initialises:
                todo.extend(writers.pop(variable, ()))
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
    operators = tuple(
        replace(op, macs=op.macs - _macs(graph.tensors, op) + _macs(tensors, op)) for op in graph.operators
    )
    return replace(graph, tensors=tuple(tensors), operators=operators)


def rebuilt(graph: Graph, values: Mapping[int, bytes]) -> Graph:
    """`graph` with `values` (little-endian, by tensor index) as constants, without the operators that make them."""
    tensors = tuple(replace(t, nbytes=len(values[t.index])) if t.index in values else t for t in graph.tensors)
    return _derived(replace(graph, tensors=tensors, values={**graph.values, **values}))


def _finish(
    graph: Graph, tensors: Sequence[Tensor], running: Sequence[Operator], constant: set[int], live: set[int]
) -> list[Operator]:
    """`running` (in order) with what follows from the whole graph: constant, dead, macs, weight bytes."""
    tables = [tensors, *(subgraph.tensors for subgraph in graph.subgraphs.values())]
    sizes = {t.buffer: t.weight_bytes for table in tables for t in table}
    inside = {
        index: frozenset(("buffer", t.buffer) for t in subgraph.tensors if t.weight_bytes)
        for index, subgraph in graph.subgraphs.items()
    }
    macs = {index: sum(op.macs for op in subgraph.operators) for index, subgraph in graph.subgraphs.items()}
    behind: dict[int, frozenset[tuple[str, int]]] = {}  # constant tensor -> the buffers and operators behind it
    counted = 0
    finished = []
    for operator in running:
        sources: set[tuple[str, int]] = set()
        for index in operator.inputs:
            if index in behind:
                sources.update(behind[index])
            elif index >= 0 and tensors[index].weight_bytes:
                sources.add(("buffer", tensors[index].buffer))
        for called in operator.subgraphs:
            sources.update(inside[called])
        counted += len(sources)
        if counted > _MAX_BEHIND + 16 * len(running):
            raise ModelError(f"operator {operator.index} ({operator.name}): too many constants stand behind it")
        outputs = [t for t in operator.outputs if t >= 0]
        is_constant = operator.initialises or (bool(outputs) and constant.issuperset(outputs))
        if is_constant:
            shared = frozenset((*sources, ("operator", operator.index)))
            behind.update(dict.fromkeys(outputs, shared))
        finished.append(
            replace(
                operator,
                constant=is_constant,
                dead=operator.index not in live,
                macs=_macs(tensors, operator) + sum(macs[called] for called in operator.subgraphs),
                weight_bytes=sum(sizes[number] for kind, number in sources if kind == "buffer"),
            )
        )
    return finished
