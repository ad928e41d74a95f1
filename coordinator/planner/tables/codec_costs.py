"""What a codec makes of a tensor's bytes, and the processor time that it takes (PURE).

`python -m benchmarks.codecs` measures ratios and times on activations of real models. COSTS follows what it prints;
the quick codecs are unpacked right into the interpreter's input, so the 0.1 ms/MB of a copy, which raw takes there,
are taken off.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coordinator.planner.tables.segments import TENSOR_BYTES
from coordinator.planner.tables.states import DownSets, bits, down_sets, states_of
from slicemq.codecs import CODECS, is_lossless, packed_size

if TYPE_CHECKING:
    from converters.codec_errors import CodecMeasures
    from converters.graph import Graph, Tensor
    from coordinator.planner.model import Fleet, PlanOptions
    from coordinator.planner.problem import State

CANDIDATES = 24
"""Down-sets at which other codecs than raw are looked at."""
KEPT = 3
"""Codecs that plans of a model are made of, besides raw: each is one more state at each of the down-sets."""
Ratios = Mapping[str, Mapping[int, float]]
"""Codec whose bytes depend on the values -> tensor -> its bytes to the plain ones, as measured."""

RATE = 50e6 / 8
"""Bytes per second of a link, where nothing is known of the nodes'."""
# How much longer a board's processor takes than the profile's machine, about.
_BOARD = 4.0
# Of the error budget at each cut: a chain of many slices adds up what its cuts err.
_SHARES = (1.0, 0.0, 1 / 8, 1 / 64)


@dataclass(frozen=True)
class CodecCost:
    """Seconds for each byte of the plain tensor, beyond those of raw, on the profile's machine."""

    encode: float = 0.0
    decode: float = 0.0


COSTS: Mapping[str, CodecCost] = {
    "raw": CodecCost(),
    "lz4": CodecCost(encode=1.83e-9, decode=0.37e-9),
    "lz4s": CodecCost(encode=2.21e-9, decode=0.55e-9),
    "zstd": CodecCost(encode=4.69e-9, decode=1.44e-9),
    "f16": CodecCost(encode=0.30e-9, decode=0.15e-9),
    "int16": CodecCost(encode=0.16e-9, decode=0.06e-9),
    "int8c": CodecCost(encode=0.45e-9, decode=0.12e-9),
    "int8": CodecCost(encode=0.16e-9, decode=0.06e-9),
    "zfp4": CodecCost(encode=4.35e-9, decode=4.22e-9),
    "zfp3": CodecCost(encode=3.86e-9, decode=3.42e-9),
    "zfp2": CodecCost(encode=3.38e-9, decode=2.84e-9),
}


def changes(tensor: Tensor, codec: str) -> bool:
    """Whether the codec sends this tensor otherwise than raw does."""
    return codec != "raw" and (is_lossless(codec) or tensor.dtype == "float32")


def packed_bytes(tensor: Tensor, codec: str, ratios: Ratios | None = None) -> int:
    """Bytes of the tensor in a frame, its row in the header included.

    A tensor that is not listed in `ratios` does not shrink with a codec whose bytes depend on the values; no tensor
    grows.
    """
    size = tensor.nbytes
    if changes(tensor, codec):
        known = packed_size(codec, tensor.dtype, tensor.shape)
        if known is not None:
            size = known
        else:
            size = min(size, math.ceil(size * (ratios or {}).get(codec, {}).get(tensor.index, 1.0)))
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
    graph: Graph, down: DownSets, options: PlanOptions, measures: CodecMeasures | None, rate: float = RATE
) -> dict[str, tuple[int, ...]]:
    """Codec -> the down-sets at which plans may use it: where it was measured, makes the bytes fewer, and keeps
    within the error budget; the KEPT codecs that serve best on links of `rate` (bytes/s). Without measures: none.
    """
    if measures is None:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for codec in CODECS[1:]:
        if codec not in options.codecs:
            continue
        if is_lossless(codec):
            sets: Sequence[int] = candidates(graph, down) if measures.ratios.get(codec) else ()
        else:
            errors = measures.errors.get(codec, {})
            sets = [done for done in down.done[1:-1] if errors.get(done, math.inf) <= options.goal.error_budget]
        chosen = tuple(done for done in sets if _saves(graph, done, codec, measures.ratios))
        if chosen:
            found[codec] = chosen
    kept = _best(graph, found, measures, options.goal.error_budget, rate)
    return {codec: sets for codec, sets in found.items() if codec in kept}


def _best(
    graph: Graph, found: Mapping[str, Sequence[int]], measures: CodecMeasures, budget: float, rate: float
) -> Collection[str]:
    """At most KEPT codecs of `found`: those that at most of its down-sets take the least time together with a link.

    First one of the lossy ones, then of the lossless ones, then of those that err less and less. They are the same
    for the whole model: slices that a tensor skips must begin and end with one codec.
    """
    if len(found) <= KEPT:
        return found
    where: dict[int, list[tuple[float, str]]] = {}
    for codec, sets in found.items():
        for done in sets:
            tensors = [graph.tensors[t] for t in crossing(graph, done)]
            where.setdefault(done, []).append((_link_seconds(tensors, codec, measures.ratios, rate), codec))
    kept: dict[str, None] = {}
    for share in _SHARES:
        wins: Counter[str] = Counter()
        for done, names in where.items():
            able = [
                (taken, codec)
                for taken, codec in names
                if is_lossless(codec) == (share == 0.0)
                and (share == 0.0 or measures.errors[codec][done] <= budget * share)
            ]
            if able:
                wins[min(able)[1]] += 1
        kept.update(dict.fromkeys(codec for codec, _ in wins.most_common(1)))

    def loss(codec: str) -> tuple[float, int]:
        known = measures.errors.get(codec, {})
        mean = statistics.fmean(known[done] for done in found[codec]) if known else math.inf
        return mean, CODECS.index(codec)

    return [*kept, *sorted(found.keys() - kept.keys(), key=loss)][:KEPT]


def _link_seconds(tensors: Sequence[Tensor], codec: str, ratios: Ratios, rate: float) -> float:
    return sum(
        packed_bytes(tensor, codec, ratios) / rate + _BOARD * sum(seconds(tensor, codec)) for tensor in tensors
    )


def chosen_states(
    graph: Graph, options: PlanOptions, measures: CodecMeasures | None = None, fleet: Fleet | None = None
) -> tuple[State, ...]:
    """The states that plans of `graph` are made of; empty for its prefixes, raw.

    Only codecs that two nodes of `fleet` have are considered, and of more than KEPT those that serve best on a link
    as its nodes have (None: whatever nodes have, and a link of RATE).
    """
    down = down_sets(graph)
    rate = RATE
    if fleet is not None:
        owned = Counter(codec for node in fleet.nodes for codec in set(node.codecs))
        options = replace(options, codecs=tuple(codec for codec in options.codecs if owned[codec] > 1))
        rate = statistics.median(min(node.up, node.down) for node in fleet.nodes) if fleet.nodes else RATE
    return states_of(down, codec_sets(graph, down, options, measures, rate))


def _saves(graph: Graph, done: int, codec: str, ratios: Ratios) -> bool:
    tensors = [graph.tensors[t] for t in crossing(graph, done)]
    return sum(packed_bytes(t, codec, ratios) for t in tensors) < sum(packed_bytes(t, "raw") for t in tensors)
