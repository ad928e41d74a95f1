"""Resident bytes of a slice beyond an idle worker, in either runtime (pure): what was found by measuring.

What a slice holds once it runs, in a worker that has given back the pages of its file (`edge_node.residency`):

    the runtime       its library's pages that a slice touches, and a few thousand bytes an operator
  + packed            XNNPACK's own copy of the weights of convolutions and fully connected layers; tflite_runtime
                      keeps expanded weights (float32 from float16 or sparse ones) beside it. The built-in kernels'
                      matrix library (ruy) keeps a copy of int8 weights of 1x1 kernels, too
  + file              what is read in each frame again: weights of built-in kernels
  + pointers          XNNPACK's indirection buffers, 8 bytes for each output position and kernel tap; the built-in
                      kernels' largest im2col copy instead
  + arena             inputs (kept for the whole frame) and the tensors that are alive at once between operators
  + workspace         the same for tensors inside XNNPACK, which has memory of its own for them; tflite_runtime's
                      wastes much, so what a slice takes is read off its plan (`converters.workspace`)
  + frames            inputs and outputs twice more: as received, as sent

The arena, and ai_edge_litert's workspace, are planned greedily by size, too (tensorflow/lite/arena_planner.cc and
simple_memory_arena.cc), but come close to the most bytes alive at once; that is what is counted here.

`python -m benchmarks.slice_costs` measures it; docs/reference/models.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.delegation import PACKED, RUNTIMES, delegated, is_hybrid
from converters.graph import Graph, Operator
from converters.kernels import im2col_bytes, indirection_bytes
from converters.workspace import offsets

# By runtime: pages of the library, and what an operator costs in it.
RUNTIME_BYTES = {"ai_edge_litert": 3_700_000, "tflite_runtime": 3_150_000}
_OPERATOR_BYTES = {"ai_edge_litert": 4_600, "tflite_runtime": 2_400}
# One read of a mapped file brings up to so many bytes around it.
READ_BYTES = 2 << 20
# What a tensor and an operator take in a file besides data; names are long.
_TENSOR_FILE_BYTES, _OPERATOR_FILE_BYTES = 200, 100
# Places from which tflite_runtime's plan of tensors is made: piles grow along a model, and slices begin anew.
PLANS = 16
# Frames that a worker holds besides the interpreter's own inputs and outputs.
FRAMES = 2
# Built-in kernels that write over their input when nobody else reads it (kTfLiteInplaceOp...).
_IN_PLACE = frozenset({"ADD", "DIV", "EXPAND_DIMS", "MUL", "RESHAPE", "SQUEEZE", "SUB"})
_COPIES_SHAPES = frozenset({"EXPAND_DIMS", "GATHER", "RESHAPE", "SQUEEZE", "STRIDED_SLICE"})
# Halves of the largest tensor whose shape the runtime computes: such tensors lie on the heap.
_HEAP = 3
# More than any machine has: what strange shapes ask for is cut off here, so that sums fit 64 bits.
_MOST = 10**13


Grid = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """One step's share.

    `shared`: bytes by what they are of, since steps may share them. `largest`: memory that all steps of a slice use
    in turn. `scratch`: alive while the step runs.
    """

    shared: dict[tuple[str, int], int]
    other: int
    largest: int
    heap: int
    scratch: int
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    builtin: bool
    in_place: bool
    reads_file: bool


def slice_memory(graph: Graph, group: Iterable[int], runtime: str = "ai_edge_litert") -> int:
    """Bytes beyond an idle worker that the slice of the operators `group` takes (constant ones are added).

    `graph` should come from `resolve_shapes`, else tensors of unknown shape count as nothing. A runtime that is
    neither `ai_edge_litert` nor `tflite_runtime` counts as whichever of them takes more.
    """
    chosen = set(group)
    steps = [step for step in graph.steps if step in chosen]
    runtimes = (runtime,) if runtime in RUNTIMES else RUNTIMES
    return max(int(MemoryModel(graph, one).rows(steps, 1)[0, len(steps)]) for one in runtimes)


def memory_table(graph: Graph, runtime: str = "ai_edge_litert") -> Grid:
    """`slice_memory` of every run of steps: [i, j] is that of `graph.steps[i:j]`, int64 [n + 1, n + 1], 0 where
    i >= j. Much faster than calling `slice_memory` for each.
    """
    if runtime not in RUNTIMES:
        return np.maximum(*(memory_table(graph, one) for one in RUNTIMES))
    return MemoryModel(graph, runtime).rows(graph.steps, len(graph.steps) + 1)


class _Sums:
    """Sums of values over rectangles of (i, j), all rectangles at once; only the first `rows` of i are kept."""

    def __init__(self, rows: int, columns: int) -> None:
        self._corners = np.zeros((rows + 1, columns + 1), dtype=np.int64)

    def add(self, value: int, i_first: int, i_last: int, j_first: int, j_last: int | None = None) -> None:
        """Add `value` where i_first <= i <= i_last and j_first <= j <= j_last (default: the last)."""
        rows, columns = self._corners.shape[0] - 1, self._corners.shape[1] - 1
        end = columns if j_last is None else min(j_last + 1, columns)
        i_end = min(i_last + 1, rows)
        if i_first >= i_end or j_first >= end:
            return
        self._corners[i_first, j_first] += value
        self._corners[i_end, j_first] -= value
        self._corners[i_first, end] -= value
        self._corners[i_end, end] += value

    def table(self) -> Grid:
        summed: Grid = self._corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
        return summed


def _most(values: Grid) -> Grid:
    """[i, j] -> the most of values[i, i:j], 0 where that is nothing."""
    found = np.zeros((values.shape[0], values.shape[1] + 1), dtype=np.int64)
    found[:, 1:] = np.maximum.accumulate(values, axis=1)
    return found


def _from(row: Sequence[int], rows: int) -> Grid:
    """[i, t] -> row[t], 0 where t < i."""
    return np.triu(np.broadcast_to(np.array(row, dtype=np.int64), (max(rows, 1), len(row))))


class MemoryModel:
    """A graph in a runtime: what each step adds, and where its tensors lie."""

    def __init__(self, graph: Graph, runtime: str) -> None:
        self.graph = graph
        self.runtime = runtime
        # Steps that run together inside XNNPACK have the same number, others -1.
        self._part: dict[int, int] = {}
        part = 0
        for index in graph.steps:
            inside = delegated(graph, graph.operators[index], runtime)
            part += 0 if inside else 1
            self._part[index] = part if inside else -1
        self.internal = {
            t
            for index in graph.steps
            for t in graph.operators[index].outputs
            if t >= 0
            and self._part[index] >= 0
            and t not in graph.outputs
            and graph.consumers.get(t)
            and all(self._part[user] == self._part[index] for user in graph.consumers[t])
        }

    def rows(self, steps: Sequence[int], rows: int) -> Grid:
        """The memory of steps[i:j] at [i, j] for each i below `rows`."""
        n = len(steps)
        shares = [self.share(self.graph.operators[index]) for index in steps]
        fixed, file, builtin_file = _Sums(rows, n + 1), _Sums(rows, n + 1), _Sums(rows, n + 1)
        users: dict[tuple[str, int], list[int]] = {}
        sizes: dict[tuple[str, int], int] = {}
        read: dict[tuple[str, int], list[int]] = {}
        for place, share in enumerate(shares):
            fixed.add(share.other, 0, place, place + 1)
            for key, size in share.shared.items():
                users.setdefault(key, []).append(place)
                sizes[key] = size
                if share.builtin and key[0] == "file":
                    read.setdefault(key, []).append(place)
        for key, places in users.items():
            _once(file if key[0] == "file" else fixed, sizes[key], places)
        for key, places in read.items():
            _once(builtin_file, sizes[key], places)
        whole_file = file.table()
        any_read = _most(_from([int(share.reads_file) for share in shares], rows))
        total = fixed.table() + np.minimum(whole_file, builtin_file.table() + READ_BYTES * any_read)
        total += _most(_from([share.largest for share in shares], rows))
        total += _most(_from([share.heap for share in shares], rows))
        total += self._tensors(steps, shares, rows) + RUNTIME_BYTES[self.runtime]
        return np.where(np.arange(n + 1)[None, :] > np.arange(rows)[:, None], total, 0)

    def _tensors(self, steps: Sequence[int], shares: Sequence[Share], rows: int) -> Grid:
        """Arena, workspace and frames."""
        n, nbytes = len(steps), [tensor.nbytes for tensor in self.graph.tensors]
        inside = set(steps)
        made: dict[int, int] = {}
        used: dict[int, list[int]] = {}
        for place, share in enumerate(shares):
            made.update(dict.fromkeys(share.makes, place))
            for tensor in share.reads:
                used.setdefault(tensor, []).append(place)
        last = {t: self._last(t, place, used.get(t, ()), inside, n) for t, place in made.items()}
        inputs, outputs, inner = _Sums(rows, n + 1), _Sums(rows, n + 1), _Sums(rows, n + 1)
        arena, workspace = _Sums(rows, n), _Sums(rows, n)
        for tensor, places in used.items():
            _once(inputs, nbytes[tensor], places, made.get(tensor, -1))
        for tensor, place in made.items():
            internal = tensor in self.internal
            (workspace if internal else arena).add(nbytes[tensor], 0, place, place, last[tensor])
            for sums in (outputs, inner) if internal else (outputs,):
                sums.add(nbytes[tensor], 0, place, place + 1, last[tensor])
        for place, share in enumerate(shares):
            (arena if share.builtin else workspace).add(share.scratch, 0, place, place, place)
            size = sum(nbytes[t] for t in share.makes)
            dying = [t for t in share.reads if t in made and last[t] == place and nbytes[t] == size]
            if share.in_place and dying:
                arena.add(-size, 0, max(made[t] for t in dying), place, place)
        in_arena, in_workspace, handed_on = arena.table(), workspace.table(), inner.table()
        # What a slice hands on lies in the arena, not in XNNPACK's workspace.
        at_end = np.zeros_like(handed_on)
        at_end[:, 1:] = in_workspace
        before = np.zeros_like(handed_on)
        before[:, 2:] = _most(in_workspace)[:, 1:-1]
        most_inner = np.maximum(before, at_end - handed_on)
        at_end[:, 1:] = in_arena
        most = np.maximum(_most(in_arena), at_end + handed_on)
        if self.runtime == "tflite_runtime":
            most_inner = np.maximum(most_inner, self._planned(steps, made, last, rows, n))
        entering, leaving = inputs.table(), outputs.table()
        together: Grid = most + most_inner + (1 + FRAMES) * entering + FRAMES * leaving
        return together

    def _last(self, tensor: int, place: int, places: Sequence[int], inside: set[int], n: int) -> int:
        """The last step that needs a tensor; n when somebody outside does."""
        users = self.graph.consumers.get(tensor, ())
        if tensor in self.graph.outputs or not inside.issuperset(users):
            return n
        return max(places, default=place)

    def _planned(self, steps: Sequence[int], made: dict[int, int], last: dict[int, int], rows: int, n: int) -> Grid:
        """[i, j] -> what the tensors that live inside steps[i:j] span in XNNPACK's plan.

        The plan is one for the model's rest from one of PLANS places on, the last before the slice.
        """
        found = np.zeros((rows, n + 1), dtype=np.int64)
        every = max(1, -(-len(self.graph.steps) // PLANS))
        first = self.graph.steps.index(steps[0]) if steps else 0
        for since in range(first // every * every, first + rows, every):
            low, high = max(since, first) - first, min(since + every - first, rows)
            if low < high and since < len(self.graph.steps):
                found[low:high] = self._spans(offsets(self.graph, self.internal, since), made, last, n, low, high)
        return found

    def _spans(
        self,
        plan: dict[int, tuple[int, int]],
        made: dict[int, int],
        last: dict[int, int],
        n: int,
        low: int,
        high: int,
    ) -> Grid:
        """The spans for slices that begin at steps `low` to `high` - 1."""
        nothing = np.iinfo(np.int64).max
        ends = np.zeros((high - low, n + 1), dtype=np.int64)
        starts = np.full((high - low, n + 1), nothing, dtype=np.int64)
        together = _Sums(high - low, n + 1)
        for tensor, (start, end) in plan.items():
            if made.get(tensor, -1) >= low and last[tensor] < n:
                row, column = min(made[tensor], high - 1) - low, last[tensor] + 1
                ends[row, column] = max(ends[row, column], end)
                starts[row, column] = min(starts[row, column], start)
                together.add(end - start, 0, made[tensor] - low, column)
        ends = np.maximum.accumulate(np.maximum.accumulate(ends, axis=1)[::-1], axis=0)[::-1]
        starts = np.minimum.accumulate(np.minimum.accumulate(starts, axis=1)[::-1], axis=0)[::-1]
        spans: Grid = np.minimum(np.where(starts < nothing, ends - starts, 0), together.table())
        return spans

    def share(self, operator: Operator) -> Share:
        """What a step adds to any slice that has it."""
        graph, builtin = self.graph, self._part[operator.index] < 0
        helpers = [graph.operators[i] for i in graph.constant_operators(operator.inputs)]
        shared: dict[tuple[str, int], int] = {}
        for one in (operator, *helpers):
            for tensor in (graph.tensors[t] for t in one.inputs if t >= 0):
                if tensor.weight_bytes:
                    shared["file", tensor.buffer] = tensor.weight_bytes
                if tensor.variable:
                    shared["state", tensor.index] = tensor.nbytes
        for called in (graph.subgraphs[i] for i in operator.subgraphs):
            shared.update((("file", t.buffer), t.weight_bytes) for t in called.tensors if t.weight_bytes)
            # Each subgraph has an arena of its own; at most it holds all of its tensors at once.
            shared["called", called.index] = sum(t.nbytes for t in called.tensors if not t.weight_bytes)
        packs = operator.name in PACKED and (not builtin or self._caches(operator))
        for helper in helpers:
            # XNNPACK packs straight from float16; only tflite_runtime's keeps the float32 ones, too.
            if builtin or not packs or self.runtime == "tflite_runtime" or helper.name != "DEQUANTIZE":
                shared.update((("made", t), graph.tensors[t].nbytes) for t in helper.outputs if t >= 0)
        if packs:
            constants = (graph.tensors[t] for t in operator.inputs if t >= 0 and graph.tensors[t].constant)
            shared.update((("packed", t.index), t.nbytes) for t in constants)
        made = [graph.tensors[t] for t in operator.outputs if t >= 0]
        if operator.name == "READ_VARIABLE":
            # What the variable holds; reading it makes a copy.
            shared.update((("state", operator.inputs[0]), t.nbytes) for t in made)
        count = sum(1 for one in (operator, *helpers) for t in (*one.inputs, *one.outputs) if t >= 0)
        in_file = count * _TENSOR_FILE_BYTES + (1 + len(helpers)) * _OPERATOR_FILE_BYTES
        shared["file", -1 - operator.index] = in_file
        heap = 0
        if operator.name in _COPIES_SHAPES:
            heap = _HEAP * max((t.nbytes for t in made if -1 in t.signature[1:]), default=0) // 2
        return Share(
            shared=shared,
            other=_OPERATOR_BYTES[self.runtime] * (1 + len(helpers))
            + (0 if builtin else min(indirection_bytes(graph, operator), _MOST)),
            largest=min(im2col_bytes(graph, operator), _MOST) if builtin else 0,
            heap=heap,
            scratch=self._scratch(operator),
            reads=tuple(
                t
                for t in graph.reads[operator.index]
                if not graph.tensors[t].constant and not graph.tensors[t].variable
            ),
            makes=tuple(t.index for t in made),
            builtin=builtin,
            in_place=builtin and operator.name in _IN_PLACE,
            reads_file=builtin
            or (self.runtime == "ai_edge_litert" and (graph.dynamic or operator.name == "PRELU")),
        )

    def _caches(self, operator: Operator) -> bool:
        """Whether the built-in kernel keeps a packed copy of its int8 weights."""
        if len(operator.inputs) < 2 or operator.inputs[1] < 0:
            return False
        weights = self.graph.tensors[operator.inputs[1]]
        if weights.dtype != "int8" or not weights.constant:
            return False
        return operator.name == "FULLY_CONNECTED" or (
            operator.name == "CONV_2D" and math.prod(weights.shape[1:3]) == 1
        )

    def _scratch(self, operator: Operator) -> int:
        """Bytes of what a step makes for itself: recomputed inputs, the int8 copy of data for int8 weights."""
        graph = self.graph
        again = [graph.operators[i] for i in graph.helpers(operator.inputs) if graph.operators[i].recomputed]
        bytes_again = sum(graph.tensors[t].nbytes for one in again for t in one.outputs if t >= 0)
        if not is_hybrid(graph, operator):
            return bytes_again
        data = [graph.tensors[t] for t in operator.inputs if t >= 0 and not graph.tensors[t].constant]
        return bytes_again + sum(t.nbytes // 4 for t in data)


def _once(sums: _Sums, size: int, places: Sequence[int], after: int = -1) -> None:
    """Add `size` for each run of steps that has one of `places` (rising) and starts after step `after`."""
    for place in places:
        sums.add(size, after + 1, place, place + 1)
        after = max(after, place)
