"""The memory of every segment in each node's runtime (PURE)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from converters.memory import memory_table, slice_memory
from coordinator.planner.model import Memory, NodeSpec
from coordinator.planner.segments import Table

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


def memory_by_runtime(graph: Graph, nodes: Iterable[NodeSpec], memory: Memory = slice_memory) -> dict[str, Table]:
    """`segment_memory` in each runtime that a node has. A node that names no known one gets the larger figures."""
    runtimes = {node.runtime for node in nodes}
    if memory is not slice_memory:
        return dict.fromkeys(runtimes, segment_memory(graph, memory))
    return {runtime: segment_memory(graph, memory, runtime) for runtime in sorted(runtimes)}
