"""What each operator costs: measured by timing short runs of operators, or estimated from shapes.

`measure` cuts the model into *units* (one step each, as far as one can cut there) and times *windows* of one,
three, ten, a quarter of all and all units, each on what those before it made. The units' seconds that explain all
of these times best (`converters.fit`) are spread over each unit's operators in proportion to their estimate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from converters.fit import Fit, Window, nonnegative, solve
from converters.graph import Graph, Operator, operator_class
from converters.runtime import Array, Interpreter, Load, feed, random_inputs
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
_SLICE_SECONDS = 2e-6
_MAX_UNITS = 500
_WINDOW_BYTES = 250_000_000
_INDEX = re.compile("[0-9]{1,9}")
SECONDS = 6.0
"""How long measuring a model takes, about, besides loading it."""
PROFILE_FORMAT = 2
"""Rises whenever the same run would be written down as other numbers, so that nobody takes old ones."""


@dataclass(frozen=True)
class Profile:
    """The cost of one frame on the machine that was measured.

    seconds: by operator index; steps only (constant operators run once, at load). runtime: its name and version,
    or `estimate`. overhead: seconds of one call of the runtime, whatever it runs. per_tensor, per_byte: seconds of
    copying inputs into an interpreter and outputs out of it. fit: None for an estimate.
    """

    seconds: dict[int, float]
    runtime: str
    measured: bool
    overhead: float
    per_tensor: float = 0.0
    per_byte: float = 0.0
    fit: Fit | None = None

    def of(self, operators: Sequence[int], *, tensors: int = 0, nbytes: int = 0) -> float:
        """Seconds of one run of a slice with `operators`.

        `tensors` and `nbytes` of its inputs and outputs together add the time of copying them in and out.
        """
        ran = self.overhead + sum(self.seconds.get(index, 0.0) for index in operators)
        return ran + self.per_tensor * tensors + self.per_byte * nbytes


def from_plain(body: Any) -> Profile:
    """A profile out of what JSON gives for `dataclasses.asdict`. Raises ValueError that names the field."""
    names = {field.name for field in fields(Profile)}
    if not isinstance(body, dict) or set(body) != names:
        raise ValueError(f"profile: expected an object with {', '.join(sorted(names))}")
    seconds, runtime, fit = body["seconds"], body["runtime"], body["fit"]
    if not isinstance(seconds, dict) or not all(
        isinstance(k, str) and k.isascii() and k.isdigit() and len(k) < 10 for k in seconds
    ):
        raise ValueError("seconds: expected an object, operator's index -> seconds")
    if not isinstance(runtime, str) or not isinstance(body["measured"], bool):
        raise ValueError("runtime, measured: expected a text and a boolean")
    return Profile(
        seconds={int(index): _number(value, f"seconds {index}") for index, value in seconds.items()},
        runtime=runtime,
        measured=body["measured"],
        overhead=_number(body["overhead"], "overhead"),
        per_tensor=_number(body["per_tensor"], "per_tensor"),
        per_byte=_number(body["per_byte"], "per_byte"),
        fit=None if fit is None else _fit(fit),
    )


def _fit(body: Any) -> Fit:
    names = {field.name for field in fields(Fit)}
    if not isinstance(body, dict) or set(body) != names or not isinstance(body["windows"], int):
        raise ValueError(f"fit: expected an object with {', '.join(sorted(names))}")
    errors = {name: _number(body[name], f"fit {name}", least=-1.0) for name in ("median", "worst", "whole")}
    return Fit(windows=body["windows"], **errors)


def _number(value: Any, what: str, least: float = 0.0) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value < 1e9:
        raise ValueError(f"{what}: expected a number, at least {least:g}, got {value!r}")
    return float(value)


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
    clock: Callable[[], float] = time.thread_time,
) -> Profile:
    """Time the model's operators on this machine, in about `budget` seconds and the time to load it five times.

    `graph` should come from `resolve_shapes`. Each time is the least of several runs, in processor time of this
    thread, which other work on the machine disturbs least (`load` must open interpreters with one thread). No more
    is loaded at once than one window, which has at most 250 MB of weights where the model can be cut so.
    Raises what `load` raises, CutError when an input is of a type that cannot be made up.
    """
    units = groups_at(graph, _unit_positions(graph))
    guess = estimate(graph).seconds
    windows: list[Window] = []
    copies: list[_Copies] = []
    partitions = _partitions(graph, units)
    for bounds in partitions:
        share = budget / len(partitions) / (len(bounds) - 1)
        groups = [[step for unit in units[a:b] for step in unit] for a, b in pairwise(bounds)]
        for (a, b), taken in zip(pairwise(bounds), _chain(data, graph, groups, load, share, clock), strict=True):
            windows.append(Window(a, b, taken.invoke))
            copies.append(taken)
    solved, overhead, fit = solve(windows, len(units))
    seconds: dict[int, float] = {}
    for unit, spent in zip(units, solved, strict=True):
        total = sum(guess[step] for step in unit)
        seconds.update((step, float(spent) * guess[step] / total) for step in unit)
    per_tensor, per_byte = _copying(copies)
    return Profile(
        seconds,
        runtime,
        measured=True,
        overhead=overhead,
        per_tensor=per_tensor,
        per_byte=per_byte,
        fit=fit,
    )


@dataclass(frozen=True)
class _Copies:
    """One window: seconds of `invoke`, and of setting its inputs and taking its outputs."""

    invoke: float
    copy: float
    tensors: int
    nbytes: int


def _partitions(graph: Graph, units: Sequence[Sequence[int]]) -> list[list[int]]:
    """The bounds of the windows, as numbers of units: single units, some, many, quarters, and all of them."""
    weights = [sum(graph.operators[step].weight_bytes for step in unit) for unit in units]
    found: list[list[int]] = []
    for size in sorted({1, 3, 10, max(1, len(units) // 4), len(units)}):
        if size > len(units):
            continue
        bounds, held = [0], 0
        for number, weight in enumerate(weights):
            if number > bounds[-1] and (number - bounds[-1] == size or held + weight > _WINDOW_BYTES):
                bounds.append(number)
                held = 0
            held += weight
        bounds.append(len(units))
        if bounds not in found:
            found.append(bounds)
    return found


def _chain(
    data: Bytes,
    graph: Graph,
    groups: Sequence[Sequence[int]],
    load: Load,
    share: float,
    clock: Callable[[], float],
) -> Iterator[_Copies]:
    """Time each group on what those before it made of random inputs, each in about `share` seconds."""
    arrays = random_inputs(graph, seed=0)
    last_use = {tensor: steps[-1] for tensor, steps in graph.consumers.items()}
    place = {step: number for number, step in enumerate(graph.steps)}
    for group, piece in zip(groups, iter_slices(data, graph, groups), strict=True):
        interpreter = load(piece.data)
        given = [arrays[t] for t in piece.inputs]
        feed(interpreter, given)
        invoke = _least(interpreter.invoke, share, clock)
        into = _least(partial(_set, interpreter, given), 0.0, clock)
        out = _least(partial(_take, interpreter, len(piece.outputs)), 0.0, clock)
        interpreter.invoke()
        made = _take(interpreter, len(piece.outputs))
        arrays.update(zip(piece.outputs, made, strict=True))
        moved = (*piece.inputs, *piece.outputs)
        yield _Copies(invoke, into + out, len(moved), sum(arrays[t].nbytes for t in moved))
        reached = place[max(group, key=lambda step: place[step])]
        for tensor in [t for t in arrays if place.get(last_use.get(t, -1), -1) <= reached]:
            del arrays[tensor]
        del interpreter, piece


def _set(interpreter: Interpreter, arrays: Sequence[Array]) -> None:
    for position, array in enumerate(arrays):
        interpreter.set_input(position, array)


def _take(interpreter: Interpreter, count: int) -> list[Array]:
    return [interpreter.output(position) for position in range(count)]


def _copying(rows: Sequence[_Copies]) -> tuple[float, float]:
    """(seconds for each tensor, seconds for each byte) that is copied in or out of an interpreter."""
    wanted = np.array([max(row.copy, 1e-9) for row in rows])
    known = np.array([(row.tensors, row.nbytes) for row in rows], dtype=np.float64)
    guess = np.array([np.min(wanted / known[:, 0]), 0.5 * np.min(wanted / np.maximum(known[:, 1], 1))])
    found = nonnegative(known, wanted, 1.0 / wanted, guess, guess)
    return float(found[0]), float(found[1])


def _unit_positions(graph: Graph) -> list[int]:
    """Legal positions, thinned out to at most _MAX_UNITS units."""
    legal = legal_positions(graph)
    every = -(-len(legal) // _MAX_UNITS) if legal else 1
    return list(legal[::every])


def _least(run: Callable[[], object], budget: float, clock: Callable[[], float]) -> float:
    """The least time of `run` in 2 to 50 runs, as many as `budget` (by the wall) allows, after one to warm up."""
    run()
    least, runs, end = float("inf"), 0, time.monotonic() + budget
    while runs < 2 or (runs < 50 and time.monotonic() < end):
        start = clock()
        run()
        least = min(least, clock() - start)
        runs += 1
    return least
