"""The memory of every segment (PURE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from converters.memory import memory_table, slice_memory
from coordinator.planner.model import Memory
from coordinator.planner.segments import Table

if TYPE_CHECKING:
    from converters.graph import Graph


def segment_memory(graph: Graph, memory: Memory = slice_memory) -> Table:
    """`memory(graph, operators of the segment)` for every segment; shape (n+1, n+1), indexed [i, j].

    The converters' formula is summed incrementally; any other function is called n(n+1)/2 times.
    """
    if memory is slice_memory:
        return memory_table(graph).astype(np.float64)
    n = len(graph.steps)
    table = np.zeros((n + 1, n + 1))
    steps = list(graph.steps)
    for i in range(n):
        for j in range(i + 1, n + 1):
            table[i, j] = memory(graph, steps[i:j])
    return table
