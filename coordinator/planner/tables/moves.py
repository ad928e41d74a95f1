"""The bytes to ship before an arc can run on a node (PURE).

A node keeps the files of slices that it ran before. An arc whose very steps it has as a file costs nothing to
place there, any other one its weights: nearly all of a slice's file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.planner.problem import Costs, State
from coordinator.planner.tables.segments import Table

if TYPE_CHECKING:
    from converters.graph import Graph

FILE_BYTES = 2000
"""What a slice's file takes besides its weights, at least: its operators and tensors."""


def with_moves(costs: Costs, graph: Graph) -> Costs:
    """The costs with a table of bytes to ship for each type; as they are when no node holds a slice."""
    if not any(kind.spec.held for kind in costs.types):
        return costs
    states = costs.states or tuple(State((1 << place) - 1) for place in range(costs.n + 1))
    shipped = _file_bytes(states, step_bytes(graph))
    place_of = {operator: place for place, operator in enumerate(graph.steps)}
    at: dict[int, list[int]] = {}
    for number, state in enumerate(states):
        at.setdefault(state.done, []).append(number)
    types = tuple(
        replace(kind, moves=_without_held(shipped, states, at, _bits(kind.spec.held, place_of)))
        for kind in costs.types
    )
    return replace(costs, types=types)


def step_bytes(graph: Graph) -> npt.NDArray[np.float64]:
    """Bytes of weights that a slice's file has because of each step; what several steps share counts for each."""
    return np.array([float(graph.operators[step].weight_bytes) for step in graph.steps])


def _file_bytes(states: tuple[State, ...], weights: npt.NDArray[np.float64]) -> Table:
    """Shape (n+1, n+1), [i, j]: bytes of the file of an arc."""
    held = np.array([sum(weights[place] for place in _places(state.done)) for state in states])
    return np.asarray(np.maximum(held[None, :] - held[:, None], 0.0) + FILE_BYTES)


def _without_held(shipped: Table, states: tuple[State, ...], at: dict[int, list[int]], held: set[int]) -> Table:
    table = shipped.copy()
    for bits in held:
        for i, state in enumerate(states):
            if not state.done & bits:
                table[i, at.get(state.done | bits, [])] = 0.0
    return table


def _bits(held: Iterable[tuple[int, ...]], place_of: dict[int, int]) -> set[int]:
    """Each held slice as bits over places in `graph.steps`; one with operators of no step here is left out."""
    found = set()
    for operators in held:
        if operators and all(operator in place_of for operator in operators):
            found.add(sum(1 << place_of[operator] for operator in set(operators)))
    return found


def _places(done: int) -> Iterable[int]:
    return (place for place in range(done.bit_length()) if done >> place & 1)
