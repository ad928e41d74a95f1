"""The memory of every segment, or arc between general states, in each node's runtime (PURE)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from converters.arc_memory import arc_memory
from converters.memory import memory_table, slice_memory
from coordinator.planner.model import Memory, NodeSpec
from coordinator.planner.problem import State
from coordinator.planner.tables.segments import Table
from coordinator.planner.tables.states import bits

if TYPE_CHECKING:
    from converters.graph import Graph


def segment_memory(graph: Graph, memory: Memory = slice_memory, runtime: str = "ai_edge_litert") -> Table:
    """`memory(graph, operators of the segment)` for every segment; shape (n+1, n+1), indexed [i, j].

    The converters' formula is summed incrementally, for `runtime`; any other function knows no runtimes and is
    called n(n+1)/2 times.
    """
    if memory is slice_memory:
        return memory_table(graph, runtime).astype(np.float64)
    n = len(graph.steps)
    table = np.zeros((n + 1, n + 1))
    steps = list(graph.steps)
    for i in range(n):
        for j in range(i + 1, n + 1):
            table[i, j] = memory(graph, steps[i:j])
    return table


def state_memory(
    graph: Graph, states: Sequence[State], memory: Memory = slice_memory, runtime: str = "ai_edge_litert"
) -> Table:
    """`memory(graph, operators of the arc)` for every arc between general states, indexed [i, j]; 0 where there is
    none.

    A function other than the converters' is called for each arc.
    """
    sets = list(dict.fromkeys(state.done for state in states))
    number = {done: row for row, done in enumerate(sets)}
    if memory is slice_memory:
        table = arc_memory(graph, sets, runtime).astype(np.float64)
    else:
        table = np.zeros((len(sets), len(sets)))
        for i, before in enumerate(sets):
            for j, after in enumerate(sets):
                if before != after and before & ~after == 0:
                    table[i, j] = memory(graph, [graph.steps[place] for place in bits(after & ~before)])
    at = [number[state.done] for state in states]
    return np.asarray(table[np.ix_(at, at)])


def memory_by_runtime(
    graph: Graph, nodes: Iterable[NodeSpec], memory: Memory = slice_memory, states: Sequence[State] = ()
) -> dict[str, Table]:
    """The memory of every arc between `states` (none: prefixes) in each runtime that a node has. A node that names
    no known one gets the larger figures.
    """

    def table(runtime: str) -> Table:
        if states:
            return state_memory(graph, states, memory, runtime)
        return segment_memory(graph, memory, runtime)

    runtimes = sorted({node.runtime for node in nodes})
    if memory is not slice_memory:
        return dict.fromkeys(runtimes, table(""))
    return {runtime: table(runtime) for runtime in runtimes}
