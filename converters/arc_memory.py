"""The memory of slices between down-sets of a model's steps, for many pairs at once (pure).

`converters.memory` sums over runs of steps; a slice between two down-sets need not be one. Here each rule of that
module becomes sums and largest values over pairs of down-sets: an entry equals `slice_memory` of its steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from converters.delegation import RUNTIMES
from converters.graph import Graph
from converters.memory import FRAMES, PLANS, READ_BYTES, RUNTIME_BYTES, Grid, MemoryModel, Share, memory_table
from converters.workspace import offsets

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def arc_memory(graph: Graph, sets: Sequence[int], runtime: str = "ai_edge_litert") -> Grid:
    """[i, j] -> `slice_memory` of the steps of sets[j] that are not in sets[i], int64; 0 unless sets[i] is a part
    of sets[j] and not all of it.

    `sets` are down-sets of the dataflow, as bits over places in `graph.steps`.
    """
    if runtime not in RUNTIMES:
        return np.maximum(*(arc_memory(graph, sets, one) for one in RUNTIMES))
    found = _Arcs(graph, runtime, sets).memory()
    prefixes = [number for number, done in enumerate(sets) if done & (done + 1) == 0]
    places = [sets[number].bit_length() for number in prefixes]
    found[np.ix_(prefixes, prefixes)] = memory_table(graph, runtime)[np.ix_(places, places)]
    return found


def membership(sets: Sequence[int], n: int) -> Mask:
    """[k, place] -> whether sets[k], bits over `n` places, has the place."""
    width = (n + 7) // 8 or 1
    packed = np.frombuffer(b"".join(one.to_bytes(width, "little") for one in sets), dtype=np.uint8)
    return np.unpackbits(packed.reshape(len(sets), width), axis=1, bitorder="little")[:, :n].astype(bool)


class _Arcs:
    def __init__(self, graph: Graph, runtime: str, sets: Sequence[int]) -> None:
        self._graph, self._runtime = graph, runtime
        self._model = MemoryModel(graph, runtime)
        self._shares: list[Share] = [self._model.share(graph.operators[step]) for step in graph.steps]
        self._n = len(graph.steps)
        self._done = membership(sets, self._n)
        inside = self._done.astype(np.float64)
        count = inside.sum(axis=1)
        # Those between two prefixes are runs of steps, which `memory_table` knows much faster.
        other = np.array([done & (done + 1) != 0 for done in sets])
        self._arcs = (inside @ (1.0 - inside).T < 0.5) & (count[:, None] < count[None, :])
        self._arcs &= other[:, None] | other[None, :]
        users: dict[int, list[int]] = {}
        for place, share in enumerate(self._shares):
            for tensor in share.reads:
                users.setdefault(tensor, []).append(place)
        self._users = users
        self._made = {t: place for place, share in enumerate(self._shares) for t in share.makes}
        # [set, tensor]: whether it has been made, and whether somebody else still needs it.
        self._tensors = list(self._made)
        self._column = {t: number for number, t in enumerate(self._tensors)}
        self._nbytes = np.array([graph.tensors[t].nbytes for t in self._tensors], dtype=np.float64)
        self._is_made = self._done[:, [self._made[t] for t in self._tensors]]
        outputs = set(graph.outputs)
        self._wanted = np.zeros_like(self._is_made)
        for number, tensor in enumerate(self._tensors):
            everybody = self._done[:, users.get(tensor, [])].all(axis=1)
            self._wanted[:, number] = ~everybody | (tensor in outputs)

    def memory(self) -> Grid:
        """The table, 0 between prefixes."""
        shares = self._shares
        fixed: dict[object, tuple[int, list[int]]] = {}
        file: dict[object, tuple[int, list[int]]] = {}
        builtin_file: dict[object, tuple[int, list[int]]] = {}
        for place, share in enumerate(shares):
            for key, size in share.shared.items():
                (file if key[0] == "file" else fixed).setdefault(key, (size, []))[1].append(place)
                if share.builtin and key[0] == "file":
                    builtin_file.setdefault(key, (size, []))[1].append(place)
            fixed[place] = (share.other, [place])
        total = self._once(fixed.values())
        any_read = self._most([int(share.reads_file) for share in shares])
        total += np.minimum(self._once(file.values()), self._once(builtin_file.values()) + READ_BYTES * any_read)
        total += self._most([share.largest for share in shares]) + self._most([share.heap for share in shares])
        total += self._alive() + (1 + FRAMES) * self._entering() + FRAMES * self._leaving(self._nbytes)
        total += RUNTIME_BYTES[self._runtime]
        return np.where(self._arcs, np.rint(total), 0).astype(np.int64)

    def _once(self, rows: Iterable[tuple[int, Sequence[int]]]) -> Floats:
        """The sum of sizes, each once where an arc has at least one of its places."""
        before, after = [], []
        for size, places in rows:
            count = self._done[:, places].sum(axis=1)
            for level in range(len(places)):
                before.append(count == level)
                after.append((count > level) * float(size))
        if not before:
            return np.zeros(self._arcs.shape)
        found: Floats = np.stack(before).T.astype(np.float64) @ np.stack(after)
        return found

    def _entering(self) -> Floats:
        """Bytes of what an arc reads and does not make."""
        found = np.zeros(self._arcs.shape)
        for tensor, places in self._users.items():
            count = self._done[:, places].sum(axis=1)
            there = self._is_made[:, self._column[tensor]] if tensor in self._column else True
            nbytes = float(self._graph.tensors[tensor].nbytes)
            for level in sorted(set(count.tolist()))[:-1]:
                found += np.outer((count == level) & there, (count > level) * nbytes)
        return found

    def _leaving(self, nbytes: Floats) -> Floats:
        """The sum of `nbytes` (by tensor) of what an arc makes and somebody else needs."""
        found: Floats = (~self._is_made).astype(np.float64) @ ((self._is_made & self._wanted) * nbytes).T
        return found

    def _most(self, values: Sequence[int]) -> Floats:
        """The most of `values` (by place) within each arc."""
        found = np.zeros(self._arcs.shape)
        for place in sorted(range(self._n), key=values.__getitem__):
            if values[place]:
                found[np.ix_(~self._done[:, place], self._done[:, place])] = values[place]
        return found

    def _alive(self) -> Floats:
        """Arena and workspace at their fullest."""
        made = np.array([self._made[t] for t in self._tensors], dtype=np.int64)
        latest = np.array(
            [max(self._users.get(t, ()), default=self._made[t]) for t in self._tensors], dtype=np.int64
        )
        inside = np.array([t in self._model.internal for t in self._tensors], dtype=bool)
        places = np.arange(self._n)
        scratch = np.array([share.scratch for share in self._shares], dtype=np.float64)
        builtin = np.array([share.builtin for share in self._shares], dtype=bool)
        handed_on = self._leaving(self._nbytes * inside)
        spans = self._spans(latest) if self._runtime == "tflite_runtime" else np.zeros(self._arcs.shape)
        absent = (~self._is_made).astype(np.float64)
        dying = self._dying(latest)
        found = np.zeros(self._arcs.shape)
        for j in range(len(self._arcs)):
            rows = np.flatnonzero(self._arcs[:, j])
            if not len(rows):
                continue
            until = np.where(self._wanted[j], self._n, latest)
            held = (made[:, None] <= places) & (places <= until[:, None]) & self._is_made[j][:, None]
            kept = held * self._nbytes[:, None]
            here = self._done[j] & ~self._done[rows]
            arena = absent[np.ix_(rows, ~inside)] @ kept[~inside] + scratch * builtin
            for place, size, tensors in dying:
                takes = tensors[self._is_made[j, tensors] & ~self._wanted[j, tensors]]
                if len(takes):
                    arena[:, place] -= size * (~self._is_made[np.ix_(rows, takes)]).any(axis=1)
            workspace = absent[np.ix_(rows, inside)] @ kept[inside] + scratch * ~builtin
            arena, workspace = np.where(here, arena, 0.0), np.where(here, workspace, 0.0)
            last = self._n - 1 - here[:, ::-1].argmax(axis=1)
            row = np.arange(len(rows))
            outer = np.maximum(arena.max(axis=1), arena[row, last] + handed_on[rows, j])
            at_end = workspace[row, last] - handed_on[rows, j]
            workspace[row, last] = 0.0
            found[rows, j] = outer + np.maximum(np.maximum(workspace.max(axis=1), at_end), spans[rows, j])
        return found

    def _dying(self, latest: npt.NDArray[np.int64]) -> list[tuple[int, int, npt.NDArray[np.int64]]]:
        """(place, bytes, columns of the tensors over one of which the step there writes when only it still reads
        it).
        """
        found = []
        for place, share in enumerate(self._shares):
            size = sum(self._graph.tensors[t].nbytes for t in share.makes)
            columns = [
                self._column[t]
                for t in share.reads
                if t in self._column and latest[self._column[t]] == place and self._graph.tensors[t].nbytes == size
            ]
            if share.in_place and columns:
                found.append((place, size, np.array(columns, dtype=np.int64)))
        return found

    def _spans(self, latest: npt.NDArray[np.int64]) -> Floats:
        """What the tensors that live inside an arc span in XNNPACK's plan of the model's rest."""
        found = np.zeros(self._arcs.shape)
        every = max(1, -(-self._n // PLANS))
        start = np.zeros(self._arcs.shape, dtype=np.int64)
        for place in reversed(range(self._n)):
            start[np.ix_(~self._done[:, place], self._done[:, place])] = place
        for since in range(0, self._n, every):
            mine = self._arcs & (start // every * every == since)
            rows = np.flatnonzero(mine.any(axis=1))
            if not len(rows):
                continue
            plan = offsets(self._graph, self._model.internal, since)
            columns = np.array([self._column[t] for t in plan if t in self._column], dtype=np.int64)
            bounds = np.array([plan[self._tensors[c]] for c in columns], dtype=np.float64).reshape(-1, 2)
            absent, ended = ~self._is_made[np.ix_(rows, columns)], (self._is_made & ~self._wanted)[:, columns]
            together = absent.astype(np.float64) @ (ended * (bounds[:, 1] - bounds[:, 0])).T
            lowest, highest = np.full((len(rows), len(self._arcs)), np.inf), np.zeros((len(rows), len(self._arcs)))
            for number in np.argsort(bounds[:, 1], kind="stable"):
                highest[np.ix_(absent[:, number], ended[:, number])] = bounds[number, 1]
            for number in np.argsort(-bounds[:, 0], kind="stable"):
                lowest[np.ix_(absent[:, number], ended[:, number])] = bounds[number, 0]
            spans = np.minimum(np.where(np.isfinite(lowest), highest - lowest, 0.0), together)
            found[rows] = np.where(mine[rows], spans, found[rows])
        return found
