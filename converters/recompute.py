"""Operators that are cheaper to run again in every slice that reads them than to send what they make (pure).

A CAST from uint8 to float32 makes four bytes of one; the zeros that PAD adds for a skip connection may double a
tensor that many later slices read. Such an operator is *recomputed*: it is no step, but goes with each slice that
uses what it makes, as constant operators do, and what crosses a cut is the smaller tensor that it reads. Only
operators that move or convert elements count: they give the same bits wherever they run, in a fraction of the time
that sending takes.
"""

from __future__ import annotations

from dataclasses import replace

from converters.dataflow import Graph, Operator
from slicemq.codecs import DTYPES

_COPIES = frozenset(
    {
        "BROADCAST_TO",
        "CAST",
        "DEQUANTIZE",
        "MIRROR_PAD",
        "PAD",
        "PADV2",
        "RESIZE_NEAREST_NEIGHBOR",
        "TILE",
    }
)


def with_recomputed(graph: Graph) -> Graph:
    """`graph` with every operator that is worth it marked as recomputed, and its steps without these.

    An operator that makes an output of the model stays a step, so that its slice answers the client. Shapes must be
    known: what differs from frame to frame is not compared.
    """
    candidates = {op.index for op in graph.operators if _is_worth_it(graph, op)}
    if candidates.issuperset(i for i, op in enumerate(graph.operators) if not op.constant and not op.dead):
        candidates = set()
    if candidates == {op.index for op in graph.operators if op.recomputed}:
        return graph
    operators = tuple(replace(op, recomputed=op.index in candidates) for op in graph.operators)
    order = graph.order or range(len(operators))
    steps = tuple(i for i in order if not (operators[i].constant or operators[i].dead or i in candidates))
    return replace(graph, operators=operators, steps=steps)


def _is_worth_it(graph: Graph, operator: Operator) -> bool:
    if operator.name not in _COPIES or operator.constant or operator.dead or operator.touches:
        return False
    reads = {t for t in operator.inputs if t >= 0 and not graph.tensors[t].constant}
    if len(reads) != 1 or len(operator.outputs) != 1 or operator.outputs[0] < 0:
        return False
    read, made = graph.tensors[reads.pop()], graph.tensors[operator.outputs[0]]
    if made.index in graph.outputs or read.variable or read.dtype not in DTYPES:
        return False
    known = min((*read.shape, *made.shape), default=0) >= 0 and not (read.varying or made.varying)
    return known and made.nbytes > read.nbytes
