"""The memory of every segment (PURE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coordinator.planner.model import Memory
from coordinator.planner.segments import Table

if TYPE_CHECKING:
    from converters.graph import Graph


def segment_memory(graph: Graph, memory: Memory) -> Table:
    """`memory(graph, operators of the segment)` for every segment; shape (n+1, n+1), indexed [i, j]."""
    n = len(graph.steps)
    table = np.zeros((n + 1, n + 1))
    steps = list(graph.steps)
    for i in range(n):
        for j in range(i + 1, n + 1):
            table[i, j] = memory(graph, steps[i:j])
    return table
