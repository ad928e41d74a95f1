"""What codecs do to a model's tensors and results, found by running it.

The error of a lossy codec at a cut: the tensors that cross there are packed and unpacked, the rest of the model
runs on them, and each output is compared with what the rest makes of the tensors as they are. An error is the
largest difference in an output relative to its largest magnitude, the worst over outputs and samples. Errors of
several cuts are taken to add up, which is an estimate: `chain_error` measures those of a whole chain.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.flatbuffer import write_slice
from converters.graph import Graph, Tensor
from converters.runtime import Array, Load, feed, random_inputs
from converters.schema import Bytes
from converters.slicing import Groups, iter_slices, parts
from slicemq import codecs

Frame = Mapping[int, Array]
SAMPLES = 2
"""Frames of seeded noise where no samples are given."""
_NO_FEWER = 1.01
SECONDS = 20.0
"""Processor time that measuring errors may take, about; what does not fit in is left out."""


@dataclass(frozen=True)
class CodecMeasures:
    """What was measured of one model.

    ratios: codec whose bytes depend on the values -> tensor -> its bytes to the plain ones, the worst of the
    first SAMPLES frames. errors: lossy codec -> down-set (bits over places in `Graph.steps`) -> error when the
    tensors that cross there are sent with the codec.
    """

    ratios: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    errors: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def measure_codecs(
    data: Bytes,
    graph: Graph,
    load: Load,
    sets: Sequence[int],
    names: Collection[str],
    *,
    samples: Sequence[Frame] | None = None,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.process_time,
) -> CodecMeasures:
    """Ratios, and the lossy codecs' errors at the down-sets `sets`, of the codecs of `names` that are here.

    A slow lossy codec gets no error where a quick one of `names` that loses less of a tensor makes as few bytes,
    and `f16` none beside `int16`. The quick ones are measured first.

    `samples` are frames by input tensor (None: SAMPLES of seeded noise). The sets are measured in an order that has
    them spread over the model whenever the time ends, on the first SAMPLES frames, and then on the other frames as
    far as the time allows. A model that keeps state gets no errors: they would depend on all frames before. Raises
    what `load` raises, CutError for sets where `graph` cannot be cut.
    """
    frames = list(samples) if samples is not None else [random_inputs(graph, seed) for seed in range(SAMPLES)]
    here = set(names) & set(codecs.available())
    lossy = [] if graph.variables else sorted(name for name in here if not codecs.is_lossless(name))
    end = clock() + seconds
    crossing = {done: _crossing(graph, done) for done in sets}
    traced = sorted({t for tensors in crossing.values() for t in tensors})
    if not traced or not frames:
        return CodecMeasures()
    ratios: dict[str, dict[int, float]] = {}
    errors: dict[str, dict[int, float]] = {name: {} for name in lossy}
    # Values of few frames at a time: those of a large model take hundreds of MB.
    for first in range(0, len(frames), SAMPLES):
        if first and clock() > end:
            break
        kept = trace(data, graph, load, traced, frames[first : first + SAMPLES])
        ratios = ratios or {
            name: {t: max(_ratio(name, values[t]) for values in kept) for t in traced}
            for name in codecs.CODECS
            if name in here and codecs.packed_size(name, "float32", (1,)) is None
        }
        for slow, done in itertools.product((False, True), _spread(sets)):
            if clock() > end:
                break
            useful = [
                name
                for name in lossy
                if codecs.is_slow(name) == slow
                and (not first or done in errors[name])
                and not _outdone(graph, name, crossing[done], lossy, ratios)
            ]
            for name, error in (_at(data, graph, load, done, kept, useful) if useful else {}).items():
                errors[name][done] = max(error, errors[name].get(done, 0.0))
    return CodecMeasures(ratios, errors)


def chain_error(
    data: Bytes,
    graph: Graph,
    load: Load,
    groups: Groups,
    names: Sequence[str] | Mapping[int, str],
    samples: Sequence[Frame] | None = None,
) -> float:
    """The error of the whole chain of slices when group k sends the others its tensors with codec names[k], or,
    with a mapping, each tensor with its own (raw where it has none).

    `groups` and errors as for `converters.slicing.iter_slices`. Inputs of the model are raw unless the mapping has
    them, results always.
    """
    frames = list(samples) if samples is not None else [random_inputs(graph, seed) for seed in range(SAMPLES)]
    exact: list[dict[int, Array]] = [dict(frame) for frame in frames]
    given = names if isinstance(names, Mapping) else {}
    packed = [{t: through(given.get(t, "raw"), array) for t, array in frame.items()} for frame in frames]
    results: list[dict[int, Array]] = [dict(frame) for frame in frames]
    wanted = [t for t in dict.fromkeys(graph.outputs) if t not in graph.inputs]
    last_read = {t: place for place, part in enumerate(parts(graph, groups)) for t in part.inputs}
    for place, piece in enumerate(iter_slices(data, graph, groups)):
        sent = names if isinstance(names, Mapping) else dict.fromkeys(piece.outputs, names[place])
        for chain, used in ((exact, {}), (packed, sent)):
            # Of a model that keeps state each of the two has its own.
            interpreter = load(piece.data)
            for number, values in enumerate(chain):
                feed(interpreter, [values[t] for t in piece.inputs])
                interpreter.invoke()
                for position, tensor in enumerate(piece.outputs):
                    made = interpreter.output(position)
                    values[tensor] = through(used.get(tensor, "raw"), made)
                    if chain is packed and tensor in wanted:
                        results[number][tensor] = made
                # What crosses many cuts of a large model, for every frame, takes hundreds of MB.
                for tensor in [t for t in values if last_read.get(t, -1) <= place and t not in wanted]:
                    del values[tensor]
            del interpreter
    return max(
        (relative(exact[k][t], results[k][t]) for k in range(len(frames)) for t in wanted),
        default=0.0,
    )


def through(codec: str, array: Array) -> Array:
    """The array as it comes out of a codec."""
    if codec == "raw" or array.dtype.name not in codecs.DTYPES:
        return array
    used, packed = codecs.encode(codec, array)
    return codecs.decode(used, memoryview(packed), array.dtype, array.shape)


def relative(expected: Array, found: Array) -> float:
    """The largest difference relative to the largest magnitude expected; infinite where they cannot be compared."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return math.inf
    if expected.dtype == object:
        return 0.0 if expected.tolist() == found.tolist() else math.inf
    if expected.tobytes() == found.tobytes():
        return 0.0
    kind: Any = np.complex128 if expected.dtype.kind == "c" else np.float64
    one, other = expected.astype(kind), found.astype(kind)
    # Equal infinities and NaN at the same places are no difference.
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        gap = float(np.abs(one[~same] - other[~same]).max())
        finite = np.abs(one[np.isfinite(one)])
        most = float(finite.max(initial=0.0))
    return gap / most if most > 0 and math.isfinite(gap) else math.inf


def to_plain(measures: CodecMeasures) -> dict[str, Any]:
    """As JSON takes it: down-sets as hex digits."""
    return {
        "ratios": {name: {str(t): ratio for t, ratio in rows.items()} for name, rows in measures.ratios.items()},
        "errors": {
            name: {f"{done:x}": error for done, error in rows.items() if math.isfinite(error)}
            for name, rows in measures.errors.items()
        },
    }


def from_plain(body: Any) -> CodecMeasures:
    """Measures out of what JSON gives for `to_plain`. Raises ValueError that names the field."""
    if not isinstance(body, dict) or set(body) != {"ratios", "errors"}:
        raise ValueError("codec measures: expected an object with errors, ratios")
    errors = body["errors"]
    if not isinstance(errors, dict) or not set(errors) <= {c for c in codecs.CODECS if not codecs.is_lossless(c)}:
        raise ValueError("errors: expected an object, lossy codec -> errors")
    ratios = body["ratios"]
    if not isinstance(ratios, dict) or not set(ratios) <= set(codecs.CODECS):
        raise ValueError("ratios: expected an object, codec -> ratios")
    return CodecMeasures(
        {name: _numbers(rows, f"ratios {name}", 10) for name, rows in ratios.items()},
        {name: _numbers(rows, f"errors {name}", 16) for name, rows in errors.items()},
    )


def _numbers(rows: Any, what: str, base: int) -> dict[int, float]:
    if not isinstance(rows, dict):
        raise ValueError(f"{what}: expected an object")
    found = {}
    for key, value in rows.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise ValueError(f"{what} {key[:80]}: expected a number, at least 0, got {str(value)[:80]}")
        found[int(key, base)] = float(value)
    return found


def _groups(graph: Graph, done: int) -> list[list[int]]:
    groups: list[list[int]] = [[], []]
    for place, step in enumerate(graph.steps):
        groups[not done >> place & 1].append(step)
    return groups


def _crossing(graph: Graph, done: int) -> list[int]:
    first, second = parts(graph, _groups(graph, done))
    return [t for t in second.inputs if t in first.outputs and t not in graph.inputs]


def trace(
    data: Bytes, graph: Graph, load: Load, tensors: Sequence[int], frames: Sequence[Frame]
) -> list[dict[int, Array]]:
    """For each frame its inputs and the values of `tensors`."""
    inputs = list(dict.fromkeys(graph.inputs))
    model = load(write_slice(data, graph, graph.closure(graph.steps, [*graph.outputs, *tensors]), inputs, tensors))
    found = []
    for frame in frames:
        feed(model, [frame[t] for t in inputs])
        model.invoke()
        values = {t: frame[t] for t in inputs}
        values.update((t, model.output(position)) for position, t in enumerate(tensors))
        found.append(values)
    return found


def _at(
    data: Bytes,
    graph: Graph,
    load: Load,
    done: int,
    kept: Sequence[Mapping[int, Array]],
    names: Sequence[str],
) -> dict[str, float]:
    """Codec -> error when everything that crosses at `done` goes through it."""
    first, rest = parts(graph, _groups(graph, done))
    model = load(write_slice(data, graph, rest.operators, rest.inputs, rest.outputs))
    crosses = set(first.outputs) - set(graph.inputs)
    worst = dict.fromkeys(names, 0.0)
    for values in kept:
        made = {}
        for name in ("raw", *names):
            feed(model, [through(name, values[t]) if t in crosses else values[t] for t in rest.inputs])
            model.invoke()
            made[name] = [model.output(position) for position in range(len(rest.outputs))]
        for name in names:
            error = max(relative(*pair) for pair in zip(made["raw"], made[name], strict=True))
            worst[name] = max(worst[name], error)
    return worst


def _ratio(name: str, array: Array) -> float:
    if not array.nbytes or array.dtype.name not in codecs.DTYPES:
        return 1.0
    return len(codecs.encode(name, array)[1]) / array.nbytes


def _outdone(
    graph: Graph, name: str, tensors: Sequence[int], names: Sequence[str], ratios: Mapping[str, Mapping[int, float]]
) -> bool:
    """Whether a slow codec, or `f16`, makes no fewer bytes than a quick one of `names` that loses less."""
    if not codecs.is_slow(name) and name != "f16":
        return False

    def size(codec: str) -> float:
        return sum(_packed(graph.tensors[t], codec, ratios) for t in tensors)

    better = [c for c in names if not codecs.is_slow(c) and codecs.worst_error(c) < codecs.worst_error(name)]
    return any(size(codec) <= _NO_FEWER * size(name) for codec in better)


def _packed(tensor: Tensor, codec: str, ratios: Mapping[str, Mapping[int, float]]) -> float:
    known = (
        codecs.packed_size(codec, tensor.dtype, tensor.shape) if tensor.dtype in codecs.DTYPES else tensor.nbytes
    )
    return tensor.nbytes * ratios.get(codec, {}).get(tensor.index, 1.0) if known is None else known


def _spread(sets: Sequence[int]) -> list[int]:
    """`sets` in an order in which each beginning is spread over all: ends and middles first."""
    ordered, step = [], 1 << max(len(sets) - 1, 0).bit_length()
    seen = set()
    while step:
        for number in range(0, len(sets), step):
            if number not in seen:
                seen.add(number)
                ordered.append(sets[number])
        step //= 2
    return ordered
