"""What each operator costs: measured by timing short runs of operators, or estimated from shapes.

`measure` cuts the model into *units* (one step each, as far as one can cut there), times each on what the units
before it made, spreads a unit's time over its operators in proportion to their estimate, and scales the sum to the
time of the whole model: units alone find their data in the cache and pay for their own call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from converters.graph import Graph, Operator, operator_class
from converters.runtime import Load, feed, random_inputs
from converters.schema import Bytes
from converters.slicing import groups_at, iter_slices, legal_positions

# Rates of `estimate`, from what `measure` found for the real models of benchmarks/ on one x86-64 core (AVX-512).
# They are as fast as that core; what a plan needs is their ratios.
_MACS_PER_SECOND = {"conv": 100e9, "depthwise": 35e9, "dense": 100e9, "elementwise": 20e9}
_INT8_SPEEDUP = {"conv": 4.0, "depthwise": 1.0, "dense": 1.0, "elementwise": 1.0}
_BYTES_PER_SECOND = 60e9
# Operators that gather, pad or transform are bound by something else than memory.
_SLOW_BYTES_PER_SECOND = {
    "CONCATENATION": 9e9,
    "FFT": 1e9,
    "GATHER": 8e9,
    "MIRROR_PAD": 2e9,
    "PACK": 3e9,
    "PAD": 10e9,
    "PADV2": 10e9,
    "POW": 2.5e9,
    "RFFT2D": 1e9,
    "STRIDED_SLICE": 9e9,
    "SUM": 5e9,
    "TRANSPOSE": 20e9,
}
# Below this many output channels a convolution leaves most of the vector unit idle.
_VECTOR_CHANNELS = 16
_OPERATOR_SECONDS = 1e-6
_SLICE_SECONDS = 15e-6
_MAX_UNITS = 500
SECONDS = 6.0
"""How long measuring a model takes, about, besides loading it."""
PROFILE_FORMAT = 1
"""Rises whenever the same run would be written down as other numbers, so that nobody takes old ones."""


@dataclass(frozen=True)
class Profile:
    """The cost of one frame on the machine that was measured.

    seconds: by operator index; steps only (constant operators run once, at load). runtime: its name and version,
    or `estimate`. overhead: seconds that each further slice adds inside the runtime.
    """

    seconds: dict[int, float]
    runtime: str
    measured: bool
    overhead: float

    def of(self, operators: Sequence[int]) -> float:
        """Seconds of one slice with `operators`, its overhead included."""
        return self.overhead + sum(self.seconds.get(index, 0.0) for index in operators)


def from_plain(body: Any) -> Profile:
    """A profile out of what JSON gives for `dataclasses.asdict`. Raises ValueError that names the field."""
    if not isinstance(body, dict) or set(body) != {"seconds", "runtime", "measured", "overhead"}:
        raise ValueError("profile: expected an object with seconds, runtime, measured and overhead")
    seconds, runtime = body["seconds"], body["runtime"]
    if not isinstance(seconds, dict) or not all(k.isascii() and k.isdigit() and len(k) < 10 for k in seconds):
        raise ValueError("seconds: expected an object, operator's index -> seconds")
    if not isinstance(runtime, str) or not isinstance(body["measured"], bool):
        raise ValueError("runtime, measured: expected a text and a boolean")
    for name, value in (*seconds.items(), ("overhead", body["overhead"])):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise ValueError(f"{name}: expected seconds, at least 0, got {value!r}")
    return Profile(
        {int(k): float(v) for k, v in seconds.items()}, runtime, body["measured"], float(body["overhead"])
    )


def estimate(graph: Graph) -> Profile:
    """Seconds from multiply-adds and from the bytes that are read and written; the same for the same graph."""
    seconds = {step: _estimate(graph, graph.operators[step]) for step in graph.steps}
    return Profile(seconds, "estimate", measured=False, overhead=_SLICE_SECONDS)


def _estimate(graph: Graph, operator: Operator) -> float:
    kind = operator_class(operator.name)
    made = [graph.tensors[t] for t in operator.outputs if t >= 0]
    moved = sum(graph.tensors[t].nbytes for t in operator.inputs if t >= 0) + sum(t.nbytes for t in made)
    rate = _MACS_PER_SECOND[kind]
    if made and made[0].dtype == "int8":
        rate *= _INT8_SPEEDUP[kind]
    if kind == "conv" and made and made[0].shape:
        rate *= min(1.0, max(1, made[0].shape[-1]) / _VECTOR_CHANNELS)
    bytes_rate = _SLOW_BYTES_PER_SECOND.get(operator.name, _BYTES_PER_SECOND)
    return _OPERATOR_SECONDS + max(operator.macs / rate, moved / bytes_rate)


def measure(
    data: Bytes,
    graph: Graph,
    load: Load,
    *,
    runtime: str = "unknown",
    budget: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Time the model's operators on this machine, in about `budget` seconds and the time to load all of it twice.

    `graph` should come from `resolve_shapes`. Each number is the least of several runs, which other work on the
    machine disturbs least. Raises what `load` raises, CutError when an input is of a type that cannot be made up.
    """
    arrays = random_inputs(graph, seed=0)
    whole = load(bytes(data))
    feed(whole, [arrays[t] for t in graph.inputs])
    whole_seconds = _least(whole.invoke, budget / 4, clock)

    groups = groups_at(graph, _unit_positions(graph))
    guess = estimate(graph).seconds
    last_use = {tensor: steps[-1] for tensor, steps in graph.consumers.items()}
    seconds: dict[int, float] = {}
    overhead = float("inf")
    for unit in iter_slices(data, graph, groups):
        interpreter = load(unit.data)
        start = clock()
        feed(interpreter, [arrays[t] for t in unit.inputs])
        fed = clock() - start
        taken = _least(interpreter.invoke, budget / 2 / len(groups), clock)
        start = clock()
        arrays.update((t, interpreter.output(position)) for position, t in enumerate(unit.outputs))
        overhead = min(overhead, fed + taken + clock() - start)
        steps = [index for index in unit.operators if index in guess]
        total = sum(guess[index] for index in steps)
        seconds.update((index, taken * guess[index] / total) for index in steps)
        for tensor in [t for t in arrays if last_use.get(t, -1) <= steps[-1]]:
            del arrays[tensor]
    whole_seconds = min(whole_seconds, _least(whole.invoke, budget / 4, clock))
    scale = whole_seconds / max(sum(seconds.values()), 1e-9)
    return Profile({index: s * scale for index, s in seconds.items()}, runtime, measured=True, overhead=overhead)


def _unit_positions(graph: Graph) -> list[int]:
    """Legal positions, thinned out to at most _MAX_UNITS units."""
    legal = legal_positions(graph)
    every = -(-len(legal) // _MAX_UNITS) if legal else 1
    return list(legal[::every])


def _least(run: Callable[[], object], budget: float, clock: Callable[[], float]) -> float:
    """The least time of `run` in 3 to 30 runs after one that does not count, as many as fit in `budget`."""
    run()
    least, spent, runs = float("inf"), 0.0, 0
    while runs < 3 or (runs < 30 and spent < budget):
        start = clock()
        run()
        taken = clock() - start
        least, spent, runs = min(least, taken), spent + taken, runs + 1
    return least
