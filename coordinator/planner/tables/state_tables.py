"""Bytes and codec seconds of every arc between general states (PURE).

The rules that make an arc's costs depend on nothing but its two states: a tensor that a slice sends to others takes
the codec of the state at the slice's end, and what a slice gets from others has the codec of the state where it
begins. Both are true of a tensor that skips a slice only if the slice begins and ends with codecs that do the same
to it: other arcs are not possible. What comes from the client and what goes to it is raw.

With D[s, t] "tensor t is made at state s" and U[s, t] "how many of its users are done", an arc (i, j) sends t iff
D[j, t] > D[i, t] and U[j, t] < all of them, and gets it iff D[i, t] and U[j, t] > U[i, t]. Each is a sum of
products of a factor of i and one of j, so that a table is a product of two matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from converters.arc_memory import membership
from converters.slicing import legal_positions
from coordinator.planner.problem import State
from coordinator.planner.tables.codec_costs import Ratios, changes, packed_bytes, seconds
from coordinator.planner.tables.segments import FRAME_BYTES, Table, traffic, wire_bytes

if TYPE_CHECKING:
    from converters.graph import Graph, Tensor

Mask = npt.NDArray[np.bool_]
_Item = TypeVar("_Item", bound=np.generic)


@dataclass(frozen=True)
class ArcTables:
    """What arcs cost whatever the node. Tables have shape (states, states), are indexed [i, j] and mean something
    where `possible`.

    `done[s, place]`: whether the step is done at state s. `bytes_in` and `bytes_out` are on the wire, `results` is
    the part of `bytes_out` that goes to the client; `codec_seconds` are those of encoding what is sent and decoding
    what is received, on the profile's machine; `codecs[s]` is the state's.
    """

    done: Mask
    possible: Mask
    bytes_in: Table
    bytes_out: Table
    results: Table
    codec_seconds: Table
    codecs: tuple[str, ...]

    def total(self, values: npt.NDArray[np.float64]) -> Table:
        """The sum of `values` (one for each step) over each arc."""
        sums = self.done @ values
        return np.asarray(sums[None, :] - sums[:, None])

    def any_of(self, places: Sequence[int]) -> Mask:
        """Whether each possible arc has at least one of the steps at `places`."""
        counts = self.done[:, list(places)].sum(axis=1)
        return np.asarray(counts[None, :] > counts[:, None])


def prefix_tables(graph: Graph) -> ArcTables:
    """The tables of contiguous runs of steps, raw: state s is the first s steps."""
    n = len(graph.steps)
    bytes_ = traffic(graph)
    legal = np.zeros(n + 1, dtype=bool)
    legal[[0, *legal_positions(graph), n]] = True
    return ArcTables(
        done=np.tri(n + 1, n, k=-1, dtype=bool),
        possible=np.triu(legal[:, None] & legal[None, :], k=1),
        bytes_in=bytes_.bytes_in,
        bytes_out=bytes_.bytes_out,
        results=bytes_.results,
        codec_seconds=np.broadcast_to(np.float64(0.0), (n + 1, n + 1)),
        codecs=("raw",) * (n + 1),
    )


def state_tables(graph: Graph, states: Sequence[State], ratios: Ratios | None = None) -> ArcTables:
    """The tables of all arcs between `states`, the first with nothing done and the last with everything, both raw.

    An arc whose slice would get nothing that changes from frame to frame is not possible. `ratios`: `packed_bytes`.
    """
    return _Tables(graph, states, ratios).made()


class _Tables:
    def __init__(self, graph: Graph, states: Sequence[State], ratios: Ratios | None) -> None:
        self._graph, self._ratios = graph, ratios
        self._codecs = tuple(state.codec for state in states)
        sets = list(dict.fromkeys(state.done for state in states))
        number = {done: row for row, done in enumerate(sets)}
        self._at = np.array([number[state.done] for state in states])
        self._done = membership(sets, len(graph.steps))
        place = {step: row for row, step in enumerate(graph.steps)}
        self._made: dict[int, npt.NDArray[np.float64]] = {}
        self._users: dict[int, list[int]] = {}
        for step in graph.steps:
            for tensor in graph.operators[step].outputs:
                if tensor >= 0:
                    self._made[tensor] = self._done[:, place[step]].astype(np.float64)
        for tensor in (*self._made, *dict.fromkeys(graph.inputs)):
            self._users[tensor] = [place[step] for step in graph.consumers.get(tensor, ())]

    def made(self) -> ArcTables:
        client, into = self._by_codec(self._received, packed_bytes)
        out = self._pick(self._by_codec(self._sent, packed_bytes)[1], ends=True)
        results = _with_frame(self._spread(self._results()))
        received = _with_frame(self._spread(client) + self._pick(into, ends=False))
        decoding = self._by_codec(self._received, lambda tensor, codec, _: seconds(tensor, codec)[1])[1]
        encoding = self._by_codec(self._sent, lambda tensor, codec, _: seconds(tensor, codec)[0])[1]
        return ArcTables(
            done=self._done[self._at],
            possible=self._possible() & (received > 0),
            bytes_in=received,
            bytes_out=_with_frame(out) + results,
            results=results,
            codec_seconds=self._pick(encoding, ends=True) + self._pick(decoding, ends=False),
            codecs=self._codecs,
        )

    def _by_codec(
        self,
        sums: Callable[[Sequence[int], Sequence[float]], Table],
        value: Callable[[Tensor, str, Ratios | None], float],
    ) -> tuple[Table, dict[str, Table]]:
        """`sums` of what comes from the client, raw, and for each codec of what comes from other slices."""
        inputs = [t for t in self._users if t not in self._made]
        between = [t for t in self._users if t in self._made]
        tensors = self._graph.tensors
        found = {
            codec: sums(between, [value(tensors[t], codec, self._ratios) for t in between])
            for codec in dict.fromkeys(self._codecs)
        }
        return sums(inputs, [value(tensors[t], "raw", None) for t in inputs]), found

    def _received(self, tensors: Sequence[int], values: Sequence[float]) -> Table:
        """The sum over the tensors that an arc uses and does not make."""
        before, after = [], []
        for tensor, value in zip(tensors, values, strict=True):
            users = self._users[tensor]
            count = self._done[:, users].sum(axis=1)
            there = self._made.get(tensor, np.ones(len(count)))
            for level in sorted(set(count.tolist()))[:-1]:
                before.append((count == level) * there)
                after.append((count > level) * float(value))
        return self._product(before, after)

    def _sent(self, tensors: Sequence[int], values: Sequence[float]) -> Table:
        """The sum over the tensors that an arc makes and later ones use."""
        rows = [(t, v) for t, v in zip(tensors, values, strict=True) if t in self._made]
        return self._product(
            [1.0 - self._made[t] for t, _ in rows],
            [self._made[t] * self._open[t] * float(v) for t, v in rows],
        )

    def _results(self) -> Table:
        wanted = [t for t in dict.fromkeys(self._graph.outputs) if t in self._made]
        return self._product(
            [1.0 - self._made[t] for t in wanted],
            [self._made[t] * wire_bytes(self._graph.tensors[t]) for t in wanted],
        )

    @cached_property
    def _open(self) -> dict[int, Mask]:
        """Whether some user of a tensor is not done."""
        return {tensor: ~self._done[:, users].all(axis=1) for tensor, users in self._users.items()}

    def _product(self, before: Sequence[Table], after: Sequence[Table]) -> Table:
        if not before:
            return np.zeros((len(self._done), len(self._done)))
        return np.asarray(np.stack(before, axis=1) @ np.stack(after))

    def _possible(self) -> Mask:
        inside = self._done.astype(np.float64)
        count = inside.sum(axis=1)
        found = self._spread((inside @ (1.0 - inside).T < 0.5) & (count[:, None] < count[None, :]))
        kinds = dict.fromkeys(self._codecs)
        at = np.array(self._codecs)
        for first in kinds:
            for last in kinds:
                if first != last:
                    differs = (at == first)[:, None] & (at == last)[None, :]
                    found &= ~(differs & self._spread(self._passes(first, last)))
        return np.asarray(found)

    def _passes(self, first: str, last: str) -> Mask:
        """Whether a tensor to which the two codecs do different things skips an arc."""
        tensors = self._graph.tensors
        names = [t for t in self._made if changes(tensors[t], first) or changes(tensors[t], last)]
        return (
            self._product([self._made[t] for t in names], [self._open[t].astype(np.float64) for t in names]) > 0.5
        )

    def _spread(self, table: npt.NDArray[_Item]) -> npt.NDArray[_Item]:
        """A table over sets as one over states."""
        return np.asarray(table[np.ix_(self._at, self._at)])

    def _pick(self, tables: Mapping[str, Table], ends: bool) -> Table:
        """For each arc the table of the codec at its end or its beginning."""
        found = np.zeros((len(self._at), len(self._at)))
        at = np.array(self._codecs)
        for codec, table in tables.items():
            mine = np.flatnonzero(at == codec)
            rows, columns = (np.arange(len(at)), mine) if ends else (mine, np.arange(len(at)))
            found[np.ix_(rows, columns)] = table[np.ix_(self._at[rows], self._at[columns])]
        return found


def _with_frame(table: Table) -> Table:
    return np.where(table > 0.5, np.rint(table) + FRAME_BYTES, 0.0)
