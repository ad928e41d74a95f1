"""What a codec makes of a tensor's bytes, and the processor time that it takes (PURE).

`python -m benchmarks.codecs` measures ratios and times on activations of real models; COSTS has what it prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.planner.tables.segments import TENSOR_BYTES
from coordinator.planner.tables.states import CODEC_ORDER, DownSets, bits, down_sets, states_of
from slicemq.codecs import AFFINE_BYTES, is_lossless

if TYPE_CHECKING:
    from converters.codec_errors import CodecMeasures
    from converters.graph import Graph, Tensor
    from coordinator.planner.model import PlanOptions
    from coordinator.planner.problem import State

CANDIDATES = 24
"""Down-sets at which other codecs than raw are looked at."""


@dataclass(frozen=True)
class CodecCost:
    """Seconds for each byte of the plain tensor, beyond those of raw, on the profile's machine."""

    encode: float = 0.0
    decode: float = 0.0


COSTS: Mapping[str, CodecCost] = {
    "raw": CodecCost(),
    "lz4": CodecCost(encode=1.7e-9, decode=0.3e-9),
    "f16": CodecCost(encode=1.2e-9, decode=1.0e-9),
    "int8": CodecCost(encode=0.31e-9, decode=0.1e-9),
}


def changes(tensor: Tensor, codec: str) -> bool:
    """Whether the codec sends this tensor otherwise than raw does."""
    return codec != "raw" and (is_lossless(codec) or tensor.dtype == "float32")


def packed_bytes(tensor: Tensor, codec: str, ratios: Mapping[int, float] | None = None) -> int:
    """Bytes of the tensor in a frame, its row in the header included.

    `ratios` are lz4's bytes to the plain ones by tensor, as measured; a tensor that is not listed does not shrink.
    """
    size = tensor.nbytes
    if changes(tensor, codec):
        if codec == "f16":
            size = size // 2
        elif codec == "int8":
            size = size // 4 + AFFINE_BYTES
        else:
            size = math.ceil(size * (ratios or {}).get(tensor.index, 1.0))
    return size + TENSOR_BYTES + len(tensor.name.encode())


def seconds(tensor: Tensor, codec: str) -> tuple[float, float]:
    """(encoding, decoding) seconds of the tensor on the profile's machine, beyond those of raw."""
    if not changes(tensor, codec):
        return 0.0, 0.0
    return COSTS[codec].encode * tensor.nbytes, COSTS[codec].decode * tensor.nbytes


def crossing(graph: Graph, done: int) -> list[int]:
    """The tensors that steps of `done` (bits over places) make and others read, sorted."""
    place = {step: number for number, step in enumerate(graph.steps)}
    found = []
    for number in bits(done):
        for tensor in graph.operators[graph.steps[number]].outputs:
            if any(not done >> place[user] & 1 for user in graph.consumers.get(tensor, ())):
                found.append(tensor)
    return sorted(found)


def candidates(graph: Graph, down: DownSets, count: int = CANDIDATES) -> tuple[int, ...]:
    """At most `count` inner down-sets, spread over the model: of each stretch the one with the fewest bytes."""
    inner = down.done[1:-1]
    sizes = [sum(graph.tensors[t].nbytes for t in crossing(graph, done)) for done in inner]
    every = max(1, math.ceil(len(inner) / count))
    return tuple(
        inner[min(range(first, min(first + every, len(inner))), key=sizes.__getitem__)]
        for first in range(0, len(inner), every)
    )


def codec_sets(
    graph: Graph, down: DownSets, options: PlanOptions, measures: CodecMeasures | None
) -> dict[str, tuple[int, ...]]:
    """Codec -> the down-sets at which plans may use it: where it was measured, makes the bytes fewer, and keeps
    within the error budget. Without measures there is none.
    """
    if measures is None:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for codec in CODEC_ORDER[1:]:
        if codec not in options.codecs:
            continue
        if is_lossless(codec):
            sets: Sequence[int] = candidates(graph, down) if measures.ratios else ()
        else:
            errors = measures.errors.get(codec, {})
            sets = [done for done in down.done[1:-1] if errors.get(done, math.inf) <= options.goal.error_budget]
        chosen = tuple(done for done in sets if _saves(graph, done, codec, measures.ratios))
        if chosen:
            found[codec] = chosen
    return found


def chosen_states(graph: Graph, options: PlanOptions, measures: CodecMeasures | None = None) -> tuple[State, ...]:
    """The states that plans of `graph` are made of; empty for its prefixes, raw."""
    down = down_sets(graph)
    return states_of(down, codec_sets(graph, down, options, measures))


def _saves(graph: Graph, done: int, codec: str, ratios: Mapping[int, float]) -> bool:
    tensors = [graph.tensors[t] for t in crossing(graph, done)]
    return sum(packed_bytes(t, codec, ratios) for t in tensors) < sum(packed_bytes(t, "raw") for t in tensors)
