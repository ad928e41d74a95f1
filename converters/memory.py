"""Resident bytes of a slice beyond an idle worker (pure): a formula with the terms that were found by measuring.

    file        the slice's own bytes: it is mapped, and every weight is read once to be packed
  + packed      XNNPACK's own copy of the weights of CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED
  + expanded    what constant operators make (float32 weights from float16 or sparse ones)
  + pointers    XNNPACK's indirection buffers: 8 bytes for each output position and kernel tap of a CONV_2D whose
                kernel is larger than 1x1; for a DEPTHWISE_CONV_2D, for each row of taps (x 1.4). For dynamic
                models at least the largest im2col copy, which tflite_runtime makes instead
  + 1.2 arena   the most bytes of tensors alive at once (a liveness count; the runtime keeps some twice)
  + 0.25 dynamic  tensors whose shapes the model computes: they live on the heap, outside the arena
  + 2.8 frames  the slice's inputs and outputs: in the interpreter, as received, as sent
  + 3.2 MB      the interpreter itself, whatever the slice

`python -m benchmarks.slice_costs` measures slices of all real models in processes of their own (the growth of VmHWM
over loading and two runs) and prints each beside the formula. With ai_edge_litert 2.3.0 the typical error is 5 %.
With tflite_runtime 2.14.0 it is 9 % where that runtime takes XNNPACK; for dynamic and int8 models, where it does
not, the formula counts packed copies that are not made, up to three times the truth for a small slice. The summary
is in docs/reference/models.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.graph import Graph, Operator, dtype_bytes

_INTERPRETER_BYTES = 3_200_000
_ARENA, _DYNAMIC, _DEPTHWISE_POINTERS, _FRAMES = 1.2, 0.25, 1.4, 2.8
_PACKED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_POINTER_BYTES = 8
# What a tensor and an operator take in a file besides data; names are long.
_TENSOR_FILE_BYTES, _OPERATOR_FILE_BYTES = 200, 100


@dataclass(frozen=True)
class _Step:
    """One step's share: `buffers`, `packed` and `expanded` by buffer or tensor, since steps may share them."""

    index: int
    buffers: dict[int, int]
    packed: dict[int, int]
    expanded: dict[int, int]
    other: float
    pointers: float
    columns: int
    reads: tuple[int, ...]
    makes: tuple[int, ...]


def slice_memory(graph: Graph, group: Iterable[int]) -> int:
    """Bytes beyond an idle worker that the slice of the operators `group` takes (constant ones are added).

    `graph` should come from `resolve_shapes`, else tensors of unknown shape count as nothing.
    """
    steps = [_step(graph, i) for i in sorted(set(group).intersection(graph.steps))]
    memory = 0
    for memory in _sweep(graph, steps):  # noqa: B007 - the last value is that of the whole group
        pass
    return memory


def memory_table(graph: Graph) -> npt.NDArray[np.int64]:
    """`slice_memory` of every run of steps: [i, j] is that of `graph.steps[i:j]`, int64 [n + 1, n + 1], 0 where
    i >= j. Much faster than calling `slice_memory` for each.
    """
    steps = [_step(graph, i) for i in graph.steps]
    table = np.zeros((len(steps) + 1, len(steps) + 1), dtype=np.int64)
    for i in range(len(steps)):
        table[i, i + 1 :] = list(_sweep(graph, steps[i:]))
    return table


def _sweep(graph: Graph, steps: Sequence[_Step]) -> Iterator[int]:
    """The memory of steps[:1], steps[:2] ...: each yield is for a slice that ends there."""
    inside = {step.index for step in steps}
    outputs = set(graph.outputs)
    made: set[int] = set()
    inputs: set[int] = set()
    seen_buffers: set[int] = set()
    seen_packed: set[int] = set()
    seen_expanded: set[int] = set()
    fixed = float(_INTERPRETER_BYTES)
    pointers = 0.0
    alive = most = input_bytes = columns = 0
    for step in steps:
        for seen, parts in (
            (seen_buffers, step.buffers),
            (seen_packed, step.packed),
            (seen_expanded, step.expanded),
        ):
            fixed += sum(size for key, size in parts.items() if key not in seen)
            seen.update(parts)
        fixed += step.other
        pointers += step.pointers
        columns = max(columns, step.columns)
        for tensor in step.reads:
            if tensor not in made and tensor not in inputs:
                inputs.add(tensor)
                input_bytes += graph.tensors[tensor].nbytes
        made.update(step.makes)
        alive += sum(graph.tensors[t].nbytes for t in step.makes)
        most = max(most, alive)
        for tensor in dict.fromkeys((*step.reads, *step.makes)):
            users = graph.consumers.get(tensor, ())
            over = tensor not in outputs and (not users or (users[-1] == step.index and inside.issuperset(users)))
            if over and tensor in made:
                alive -= graph.tensors[tensor].nbytes
        # What is alive here is what a slice that ends here hands on.
        frames = _FRAMES * (input_bytes + alive)
        convolving = max(pointers, columns if graph.dynamic else 0)
        yield math.ceil(fixed + _ARENA * (most + input_bytes) + convolving + frames)


def _step(graph: Graph, index: int) -> _Step:
    operator = graph.operators[index]
    helpers = [graph.operators[i] for i in sorted(graph.constant_operators(operator.inputs))]
    buffers: dict[int, int] = {}
    expanded: dict[int, int] = {}
    for one in (operator, *helpers):
        for tensor in (graph.tensors[t] for t in one.inputs if t >= 0):
            if tensor.weight_bytes:
                buffers[tensor.buffer] = tensor.weight_bytes
    for helper in helpers:
        expanded.update((t, graph.tensors[t].nbytes) for t in helper.outputs if t >= 0)
    packed = {}
    if operator.name in _PACKED:
        constants = (graph.tensors[t] for t in operator.inputs if t >= 0 and graph.tensors[t].constant)
        packed = {t.index: t.nbytes for t in constants}
    made = [graph.tensors[t] for t in operator.outputs if t >= 0]
    dynamic = sum(t.nbytes for t in made if -1 in t.signature[1:])
    count = sum(1 for one in (operator, *helpers) for t in (*one.inputs, *one.outputs) if t >= 0)
    in_file = count * _TENSOR_FILE_BYTES + (1 + len(helpers)) * _OPERATOR_FILE_BYTES
    return _Step(
        index=index,
        buffers=buffers,
        packed=packed,
        expanded=expanded,
        other=in_file + _DYNAMIC * dynamic,
        pointers=_pointers(graph, operator),
        columns=_columns(graph, operator),
        reads=tuple(dict.fromkeys(t for t in operator.inputs if t >= 0 and not graph.tensors[t].constant)),
        makes=tuple(t.index for t in made),
    )


def _pointers(graph: Graph, operator: Operator) -> float:
    """Bytes of the indirection buffer of a convolution."""
    if operator.name not in ("CONV_2D", "DEPTHWISE_CONV_2D") or min(operator.inputs[1:2], default=-1) < 0:
        return 0.0
    weights = graph.tensors[operator.inputs[1]].shape
    made = graph.tensors[operator.outputs[0]].shape
    if len(weights) != 4 or len(made) != 4 or min(made) < 0:
        return 0.0
    _, height, width, _ = weights
    positions = made[1] * made[2] * _POINTER_BYTES
    if operator.name == "DEPTHWISE_CONV_2D":
        return _DEPTHWISE_POINTERS * positions * height
    return float(positions * height * width) if height * width > 1 else 0.0


def _columns(graph: Graph, operator: Operator) -> int:
    """Bytes of an im2col copy: for each output position all the inputs that a convolution's kernel covers."""
    if operator.name != "CONV_2D" or min(operator.inputs[1:2], default=-1) < 0:
        return 0
    weights = graph.tensors[operator.inputs[1]]
    made = graph.tensors[operator.outputs[0]]
    if len(weights.shape) != 4 or len(made.shape) != 4 or min((*weights.shape, *made.shape)) < 0:
        return 0
    taps = math.prod(weights.shape[1:])
    covered = math.prod(weights.shape[1:3])
    return made.shape[1] * made.shape[2] * taps * round(dtype_bytes(made.dtype)) if covered > 1 else 0
