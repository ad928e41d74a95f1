"""Where XNNPACK's planner puts the tensors inside it, for a model or its later part (pure).

XNNPACK src/memory-planner.c, as tflite_runtime 2.14 has it: tensors from the largest to the smallest, equal ones in
the order of the file; each goes into the smallest gap between those that live at the same time and were placed
before, else behind the last of these. Room in front of the first of these is never used, so tensors of residual
networks pile up: ResNet50's take 50 MB where 10 MB are alive at once.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from converters.delegation import PACKED
from converters.graph import Graph, Operator

# XNNPACK makes these part of the operator before them (xnn_subgraph_optimize), and lets these write over an input
# that only they read when one operator reads what they make (src/runtime.c).
_CLAMPS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1"})
_CLAMPED = PACKED | {"ADD", "AVERAGE_POOL_2D", "DIV", "MAX_POOL_2D", "MUL", "SUB"}
_TAKES_OVER = _CLAMPS | {
    "ABS",
    "ADD",
    "CEIL",
    "DIV",
    "ELU",
    "FLOOR",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "NEG",
    "PRELU",
    "RESHAPE",
    "ROUND",
    "SOFTMAX",
    "SQRT",
    "SQUARE",
    "SQUARED_DIFFERENCE",
    "SUB",
    "TANH",
}


@dataclass
class _Block:
    tensor: int
    size: int
    first: int
    last: int
    start: int = 0


def offsets(graph: Graph, internal: AbstractSet[int], since: int = 0) -> dict[int, tuple[int, int]]:
    """Tensor -> (first byte, byte after the last) for the tensors `internal` to XNNPACK when the steps from number
    `since` on run together.

    Tensors that share memory have the same; those that a fused clamp leaves no trace of have none.
    """
    blocks = _blocks(graph, internal, since)
    placed: list[_Block] = []
    for block in sorted({id(b): b for b in blocks.values()}.values(), key=lambda b: (-b.size, b.tensor)):
        beside = [b for b in placed if b.first <= block.last and block.first <= b.last]
        block.start = _offset(sorted((b.start, b.start + b.size) for b in beside), block.size)
        placed.append(block)
    return {tensor: (block.start, block.start + block.size) for tensor, block in blocks.items()}


def _blocks(graph: Graph, internal: AbstractSet[int], since: int) -> dict[int, _Block]:
    blocks: dict[int, _Block] = {}
    born: dict[int, int] = {}
    fused: set[int] = set()
    for place, index in enumerate(graph.steps[since:]):
        operator = graph.operators[index]
        for tensor in graph.reads[index]:
            if tensor in blocks:
                blocks[tensor].last = max(blocks[tensor].last, place)
        for tensor in operator.outputs:
            if tensor not in internal:
                continue
            born[tensor] = place
            readers = graph.consumers.get(tensor, ())
            alone = len(readers) == 1
            if operator.name in _CLAMPED and alone and graph.operators[readers[0]].name in _CLAMPS:
                fused.add(tensor)
                continue
            if operator.name in _CLAMPS and operator.inputs[:1] and operator.inputs[0] in fused:
                born[tensor] = born[operator.inputs[0]]
            elif operator.name in _TAKES_OVER and alone:
                given = next((t for t in operator.inputs if _gives(graph, blocks, t, operator, tensor)), None)
                if given is not None:
                    blocks[tensor] = blocks[given]
                    blocks[tensor].last = place
                    continue
            blocks[tensor] = _Block(tensor, graph.tensors[tensor].nbytes, born[tensor], place)
    return blocks


def _gives(graph: Graph, blocks: dict[int, _Block], tensor: int, operator: Operator, made: int) -> bool:
    """Whether `operator` may write the tensor `made` over its input `tensor`."""
    return (
        tensor in blocks
        and len(graph.consumers[tensor]) == 1
        and operator.inputs.count(tensor) == 1
        and graph.tensors[tensor].nbytes == graph.tensors[made].nbytes
    )


def _offset(taken: list[tuple[int, int]], size: int) -> int:
    """Where the planner puts `size` bytes when the ranges `taken` (in order) are not free."""
    if not taken:
        return 0
    least, place, end = -1, 0, taken[0][1]
    for start, stop in taken[1:]:
        gap = start - end
        if gap > 0 and gap >= size and (least < 0 or gap < least):
            least, place = gap, end
        end = max(end, stop)
    return end if least < 0 else place
