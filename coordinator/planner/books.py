"""Open books: every number that a plan was made of, as a JSON document that anybody can check the plan with (PURE).

The document and its units: docs/reference/costs-file.md. It holds primitives: seconds of each step on
each node, bytes of each tensor, memory of each arc in each runtime, rates of links. Where a table of the problem
follows from these it is left out; where it does not, the table itself is there. `planner.books_read` reads it back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.slicing import legal_positions
from coordinator.planner.arcs import Arcs, Coded, Primitives, plain_number, rows_of
from coordinator.planner.codec_costs import changes, packed_bytes, seconds
from coordinator.planner.model import PlanOptions
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.segments import FRAME_BYTES, wire_bytes
from slicemq.errors import PlanError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile

FORMAT = 1
MAX_BYTES = 256 << 20
"""No larger file is written or read; 80 steps take about 0.1 MB, 700 steps about 4 MB (both runtimes)."""


def books(
    graph: Graph,
    profile: Profile,
    costs: Costs,
    options: PlanOptions,
    ratios: Mapping[int, float] | None = None,
) -> dict[str, Any]:
    """The document of `costs`, made for `graph` with `profile`, `options` and lz4's `ratios` (`packed_bytes`)."""
    primitives = _primitives(graph, costs, ratios)
    arcs = primitives.traffic(FRAME_BYTES)
    memories: list[dict[str, Any]] = []
    body: dict[str, Any] = {
        "format": FORMAT,
        "model": graph.sha256,
        "stateful": graph.stateful,
        "profile": {"runtime": profile.runtime, "measured": profile.measured, "call": profile.overhead},
        "overheads": {
            "message": options.overheads.message,
            "receive_per_byte": options.overheads.receive_per_byte,
            "send_per_byte": options.overheads.send_per_byte,
        },
        "frame_bytes": FRAME_BYTES,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "tensors": [
            [
                t,
                graph.tensors[t].name,
                graph.tensors[t].dtype,
                size,
                {
                    codec: [coded[t].bytes, coded[t].encode, coded[t].decode]
                    for codec, coded in sorted(primitives.coded.items())
                    if t in coded
                },
            ]
            for t, size in sorted(primitives.sizes.items())
        ],
        "operators": [
            [
                index,
                graph.operators[index].name,
                float(profile.seconds.get(index, 0.0)),
                list(primitives.reads[place]),
                list(primitives.makes[place]),
            ]
            for place, index in enumerate(graph.steps)
        ],
        "together": [[graph.steps.index(step) for step in steps] for steps in graph.together],
        "prefixes": primitives.prefixes,
        "states": _states(graph, costs, primitives),
        "goal": _goal(costs),
        "max_slices": costs.max_slices,
        "slice_pins": [[number, costs.types[kind].ids[0]] for number, kind in sorted(costs.slice_pins.items())],
        "step_pins": _step_pins(graph, options),
        "excluded": sorted(options.exclude),
        "required": dict(sorted(options.require.items())),
        "headroom": options.headroom,
        "broker_rate": costs.broker_rate,
        "links": None,
        "memory": memories,
    }
    if costs.hops is not None:
        body["links"] = {"bytes": _plain(costs.hops.bytes), "rates": [_plain(row) for row in costs.hops.rates]}
    body["traffic"] = _traffic(costs, primitives, arcs)
    body["nodes"] = [_node(kind, costs, body, primitives, arcs, memories) for kind in costs.types]
    return body


def text_of(body: dict[str, Any]) -> str:
    """The file's text: the same for the same document, a row a line. Raises PlanError where it is too large."""
    text = _text(body, 0) + "\n"
    if len(text) > MAX_BYTES:
        raise PlanError(f"the costs take {len(text)} bytes as a file, at most {MAX_BYTES} are written")
    return text


def _primitives(graph: Graph, costs: Costs, ratios: Mapping[int, float] | None) -> Primitives:
    made = {t for index in graph.steps for t in graph.operators[index].outputs if t >= 0}
    travels = made | set(graph.inputs)
    reads = [tuple(t for t in graph.reads[index] if t in travels) for index in graph.steps]
    wanted = {t for row in reads for t in row} | set(graph.outputs)
    makes = [tuple(t for t in graph.operators[index].outputs if t in wanted) for index in graph.steps]
    sizes = {t: wire_bytes(graph.tensors[t]) for t in sorted(wanted & travels)}
    codecs = tuple(state.codec for state in costs.states) or ("raw",) * (costs.n + 1)
    return Primitives(
        sets=tuple(state.done for state in costs.states) or tuple((1 << done) - 1 for done in range(costs.n + 1)),
        legal=tuple(range(costs.n + 1)) if costs.states else tuple(sorted({0, costs.n, *legal_positions(graph)})),
        reads=tuple(reads),
        makes=tuple(makes),
        sizes=sizes,
        inputs=graph.inputs,
        outputs=graph.outputs,
        codecs=codecs,
        coded={
            codec: {
                t: Coded(packed_bytes(graph.tensors[t], codec, ratios), *seconds(graph.tensors[t], codec))
                for t in sizes
                if t in made and changes(graph.tensors[t], codec)
            }
            for codec in dict.fromkeys(codecs)
            if codec != "raw"
        },
        prefixes=not costs.states,
    )


def _states(graph: Graph, costs: Costs, primitives: Primitives) -> list[list[Any]]:
    """A row a state: runs of steps that are done, codec, whether it is legal, error, tensors that cross, bytes."""
    rows: list[list[Any]] = []
    legal = set(primitives.legal)
    for number, done in enumerate(primitives.sets):
        tensors = primitives.crossing(done)
        rows.append(
            [
                _runs(done),
                primitives.codecs[number],
                number in legal,
                0.0 if costs.errors is None else _finite(float(costs.errors[number])),
                list(tensors),
                sum(primitives.sizes[t] for t in tensors) + (FRAME_BYTES if tensors else 0),
            ]
        )
    return rows


def _runs(done: int) -> list[list[int]]:
    found: list[list[int]] = []
    for place in range(done.bit_length()):
        if done >> place & 1:
            if found and found[-1][1] == place - 1:
                found[-1][1] = place
            else:
                found.append([place, place])
    return found


def _goal(costs: Costs) -> dict[str, Any]:
    goal = costs.goal
    return {
        "objective": goal.objective,
        "max_period": _finite(goal.max_period),
        "max_latency": _finite(goal.max_latency),
        "max_nodes": goal.max_nodes,
        "max_energy": _finite(goal.max_energy),
        "error_budget": goal.error_budget,
        "within": goal.within,
    }


def _step_pins(graph: Graph, options: PlanOptions) -> list[list[Any]]:
    """(first, last step, node) of each run of steps that is pinned."""
    place = {index: step for step, index in enumerate(graph.steps)}
    found: list[list[Any]] = []
    for first, last, node in options.range_pins():
        steps = sorted(place[index] for index in range(first, last + 1) if index in place)
        bits = sum(1 << step for step in steps)
        found += [[a, b, node] for a, b in _runs(bits)]
    return found


def _traffic(costs: Costs, primitives: Primitives, moved: Arcs) -> dict[str, Any] | None:
    """The bytes of every arc, where they are not simply those of its tensors."""
    arcs = primitives.arcs
    tables = {"in": (moved.into, costs.bytes_in), "out": (moved.out, costs.bytes_out)}
    tables["relayed"] = moved.relayed, costs.relayed
    if all(np.array_equal(made[arcs], given[arcs]) for made, given in tables.values()):
        return None
    return {name: rows_of(given, arcs) for name, (_, given) in tables.items()}


def _node(
    kind: NodeType,
    costs: Costs,
    body: dict[str, Any],
    primitives: Primitives,
    moved: Arcs,
    memories: list[dict[str, Any]],
) -> dict[str, Any]:
    spec, arcs = kind.spec, primitives.arcs
    allowed = np.isfinite(kind.period) & arcs
    limit = spec.memory * (1.0 - body["headroom"])
    if allowed.any():
        limit = max(limit, float(kind.memory[allowed].max()))
    pinned = {
        step for first, last, node in body["step_pins"] if node not in kind.ids for step in range(first, last + 1)
    }
    fits = arcs & (kind.memory <= limit) & primitives.coding(spec.codecs)
    refused = _refused(primitives, fits, allowed)
    possible = fits & ~primitives.touching(refused)
    work, moving = primitives.work(kind.steps), overheads(body, kind, moved)
    speed = _speed(kind, arcs, work, moving)
    compute = work + moving / speed
    formula = np.allclose(compute[arcs], kind.compute[arcs], rtol=1e-12, atol=0.0)
    rates = [
        _rate(kind.bytes_in, kind.down, spec.free_down, arcs),
        _rate(kind.bytes_out, kind.up, spec.free_up, arcs),
    ]
    period = stage(kind, costs)
    row: dict[str, Any] = {
        "ids": list(kind.ids),
        "runtime": spec.runtime,
        "memory": spec.memory,
        "memory_limit": limit,
        "memory_table": _memory(kind, arcs, memories),
        "speed": speed,
        "down": rates[0],
        "up": rates[1],
        "rtt": spec.rtt,
        "watts": spec.watts,
        "joules_per_byte": spec.joules_per_byte,
        "steps": _plain(kind.steps),
        "cannot_run": sorted(refused - pinned),
        "pinned_elsewhere": sorted(pinned),
        "codecs": list(spec.codecs),
        "labels": dict(sorted(spec.labels.items())),
        "speeds": dict(sorted(spec.speeds.items())),
        "link": [spec.down, spec.up],
        "busy": [spec.busy, spec.busy_down, spec.busy_up],
        "held": sorted(list(places) for places in spec.held),
        "whole": kind.whole,
        "useful": kind.useful,
        "compute": None if formula else rows_of(kind.compute, arcs),
        "traffic": None,
        "stage": None if np.array_equal(period[allowed], kind.period[allowed]) else rows_of(kind.period, arcs),
        "allowed": None if np.array_equal(possible, allowed) else rows_of(allowed.astype(float), arcs),
        "moves": None if kind.moves is None else rows_of(kind.moves, arcs),
    }
    pairs = (kind.bytes_in, costs.bytes_in), (kind.bytes_out, costs.bytes_out)
    if not all(np.array_equal(mine[arcs], every[arcs]) for mine, every in pairs):
        row["traffic"] = {"in": rows_of(kind.bytes_in, arcs), "out": rows_of(kind.bytes_out, arcs)}
    return row


def stage(kind: NodeType, costs: Costs) -> Any:
    """The seconds of a stage by the rule: the longest of computing, receiving and sending.

    With links between pairs of nodes only the client's part of the traffic counts here.
    """
    down, up = kind.down, kind.up
    if costs.hops is not None:
        ends = np.arange(costs.n + 1)
        down, up = np.where(ends[:, None] == 0, down, 0.0), np.where(ends[None, :] == costs.n, up, 0.0)
    return np.maximum(kind.compute, np.maximum(down, up))


def _refused(primitives: Primitives, fits: Any, allowed: Any) -> set[int]:
    """The steps of which no arc that fits may run."""
    found = set()
    for step in range(primitives.steps):
        touching = primitives.touching({step})
        if not (allowed & touching).any() and (fits & touching).any():
            found.add(step)
    return found


def overheads(body: dict[str, Any], kind: NodeType, moved: Arcs) -> Any:
    """Seconds besides the steps' own, on the machine of speed 1: a call, messages, bytes and codecs."""
    costs, into, out = body["overheads"], kind.bytes_in, kind.bytes_out
    moving = (
        costs["message"] * ((into > 0).astype(float) + (out > 0))
        + costs["receive_per_byte"] * into
        + costs["send_per_byte"] * out
    )
    return body["profile"]["call"] + (moving + moved.codec_seconds)


def _speed(kind: NodeType, arcs: Any, work: Any, moving: Any) -> float:
    """By what the overheads are divided on this node."""
    mean = kind.spec.mean_speed * (1.0 - kind.spec.busy)
    if not arcs.any():
        return mean
    where = np.unravel_index(int(np.argmax(np.where(arcs, moving, -1.0))), moving.shape)
    extra = float(kind.compute[where] - work[where])
    if moving[where] <= 0 or extra <= 0:
        return mean
    fitted = float(moving[where]) / extra
    return mean if math.isclose(fitted, mean, rel_tol=1e-9) else fitted


def _rate(bytes_: Any, seconds: Any, nominal: float, arcs: Any) -> float:
    """The rate of a link that the plan was made with: what others use may have been taken off."""
    moved = arcs & (bytes_ > 0)
    if not moved.any() or np.array_equal(bytes_[moved] / nominal, seconds[moved]):
        return nominal
    where = np.unravel_index(int(np.argmax(np.where(moved, bytes_, 0.0))), bytes_.shape)
    return float(bytes_[where] / seconds[where])


def _memory(kind: NodeType, arcs: Any, memories: list[dict[str, Any]]) -> int:
    rows = rows_of(kind.memory, arcs)
    for number, table in enumerate(memories):
        if table["rows"] == rows:
            if kind.spec.runtime not in table["runtimes"]:
                table["runtimes"].append(kind.spec.runtime)
            return number
    memories.append({"runtimes": [kind.spec.runtime], "rows": rows})
    return len(memories) - 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(values: Any) -> list[float | int | None]:
    return [plain_number(float(value)) for value in values]


def _text(value: Any, depth: int) -> str:
    inner, pad = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value:
        parts = [f"{json.dumps(key)}: {_text(item, depth + 1)}" for key, item in value.items()]
        return "{" + inner + ("," + inner).join(parts) + pad + "}"
    if isinstance(value, list) and value and all(isinstance(item, (list, dict)) for item in value):
        return "[" + inner + ("," + inner).join(_text(item, depth + 1) for item in value) + pad + "]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
