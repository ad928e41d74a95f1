"""Quantities of every contiguous segment of a model's steps, built incrementally (PURE).

A segment (i, j] is the steps i, i+1, ..., j-1 (places in `graph.steps`); tables have shape
(n+1, n+1), are indexed [i, j] and mean something for i < j only. A tensor or constant that several steps
share counts once in a segment: each such rule becomes a few rectangles of (i, j), and all
rectangles are summed at once, which takes O(n^2 + edges).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from converters.graph import Graph, Tensor

Table = npt.NDArray[np.float64]

FRAME_BYTES = 200
"""What a frame takes besides its tensors: prefix, header, topic, MQTT."""
TENSOR_BYTES = 40
"""What a tensor takes in a frame's header, besides its name."""


def wire_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor in a frame with the codec `raw`, its row in the header included."""
    return tensor.nbytes + TENSOR_BYTES + len(tensor.name.encode())


@dataclass(frozen=True)
class Traffic:
    """Bytes into and out of every segment; `results` is the part of `bytes_out` that goes to the client."""

    bytes_in: Table
    bytes_out: Table
    results: Table


class _Rectangles:
    """Sums values over rectangles of (i, j), both ends included."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._corners = np.zeros((n + 2, n + 2))

    def add(self, value: float, i_first: int, i_last: int, j_first: int, j_last: int) -> None:
        if i_first > i_last or j_first > j_last:
            return
        corners = self._corners
        corners[i_first, j_first] += value
        corners[i_last + 1, j_first] -= value
        corners[i_first, j_last + 1] -= value
        corners[i_last + 1, j_last + 1] += value

    def table(self) -> Table:
        sums = np.cumsum(np.cumsum(self._corners, axis=0), axis=1)
        return np.ascontiguousarray(sums[: self._n + 1, : self._n + 1])


def traffic(graph: Graph) -> Traffic:
    """What each segment receives and publishes.

    In: every tensor that it consumes and does not make, once. Out: every tensor that it makes and later
    segments consume, once however many consume it, and the model's outputs that it makes.
    """
    n = len(graph.steps)
    made, used = _ends(graph)
    into, out, answer = _Rectangles(n), _Rectangles(n), _Rectangles(n)
    for tensor, users in used.items():
        value = wire_bytes(graph.tensors[tensor])
        maker = made.get(tensor, -1)
        before = maker
        for user in users:
            into.add(value, before + 1, user, user + 1, n)
            before = user
        if maker >= 0:
            out.add(value, 0, maker, maker + 1, users[-1])
    for tensor in set(graph.outputs):
        if tensor in made:
            answer.add(wire_bytes(graph.tensors[tensor]), 0, made[tensor], made[tensor] + 1, n)
    results = _with_frame(answer.table())
    return Traffic(_with_frame(into.table()), _with_frame(out.table()) + results, results)


def _with_frame(table: Table) -> Table:
    return np.where(table > 0.5, np.rint(table) + FRAME_BYTES, 0.0)


def _ends(graph: Graph) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Tensor -> position of the step that makes it; tensor -> sorted positions of the steps that use it.

    Constants and what constant operators make are left out: they never travel.
    """
    made: dict[int, int] = {}
    used: dict[int, list[int]] = {}
    for position, index in enumerate(graph.steps):
        for tensor in graph.operators[index].outputs:
            if tensor >= 0:
                made[tensor] = position
    travels = set(made) | set(graph.inputs)
    for position, index in enumerate(graph.steps):
        for tensor in graph.reads[index]:
            if tensor in travels:
                used.setdefault(tensor, []).append(position)
    return made, used


def work(seconds: npt.NDArray[np.float64]) -> Table:
    """The sum of `seconds` (one number per step) over each segment."""
    sums = np.concatenate([[0.0], np.cumsum(seconds)])
    return np.ascontiguousarray(sums[None, :] - sums[:, None])


def any_of(n: int, marked: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Whether each segment contains at least one of the marked positions."""
    counts = np.zeros(n + 1)
    for position in marked:
        counts[position + 1] += 1
    sums = np.cumsum(counts)
    return np.asarray(sums[None, :] - sums[:, None] > 0)
