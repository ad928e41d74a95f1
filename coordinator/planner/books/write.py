"""Open books: every number that a plan was made of, as a JSON document that anybody can check the plan with (PURE).

The document and its units: docs/reference/costs-file.md. It holds primitives: seconds of each step on
each node, bytes of each tensor, memory of each arc in each runtime, rates of links. Where a table of the problem
follows from these it is left out; where it does not, the table itself is there. `planner.books.read` reads it back.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.slicing import legal_positions
from coordinator.planner.books.arcs import Arcs, Coded, Primitives, rows_of
from coordinator.planner.books.nodes import node_row, plain_row
from coordinator.planner.model import PlanOptions
from coordinator.planner.problem import Costs
from coordinator.planner.tables.codec_costs import Ratios, changes, packed_bytes, seconds
from coordinator.planner.tables.segments import FRAME_BYTES, wire_bytes
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
    ratios: Ratios | None = None,
) -> dict[str, Any]:
    """The document of `costs`, made for `graph` with `profile`, `options` and `ratios` (`packed_bytes`)."""
    primitives = _primitives(graph, costs, ratios)
    arcs = primitives.traffic(FRAME_BYTES)
    memories: list[dict[str, Any]] = []
    moves: list[Any] = []
    body: dict[str, Any] = {
        "format": FORMAT,
        "model": graph.sha256,
        "stateful": graph.stateful,
        "profile": {"runtime": profile.runtime, "measured": profile.measured, "call": profile.overhead},
        "overheads": {
            "message": options.overheads.message,
            "receive_per_byte": options.overheads.receive_per_byte,
            "send_per_byte": options.overheads.send_per_byte,
            "computing": options.overheads.computing,
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
        "data_brokers": None
        if costs.data_brokers is None
        else {"nodes": sorted(costs.data_brokers.nodes), "per_byte": costs.data_brokers.per_byte},
        "links": None,
        "memory": memories,
        "moves": moves,
    }
    if costs.hops is not None:
        body["links"] = {
            "bytes": plain_row(costs.hops.bytes),
            "rates": [plain_row(row) for row in costs.hops.rates],
        }
    body["traffic"] = _traffic(costs, primitives, arcs)
    seen: list[Any] = []
    body["nodes"] = [node_row(kind, costs, body, primitives, arcs, memories, seen, moves) for kind in costs.types]
    return body


def text_of(body: dict[str, Any]) -> str:
    """The file's text: the same for the same document, a row a line. Raises PlanError where it is too large."""
    text = _text(body, 0) + "\n"
    if len(text) > MAX_BYTES:
        raise PlanError(f"the costs take {len(text)} bytes as a file, at most {MAX_BYTES} are written")
    return text


def _primitives(graph: Graph, costs: Costs, ratios: Ratios | None) -> Primitives:
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
        linked=costs.hops is not None,
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: Any, depth: int) -> str:
    inner, pad = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value:
        parts = [f"{json.dumps(key)}: {_text(item, depth + 1)}" for key, item in value.items()]
        return "{" + inner + ("," + inner).join(parts) + pad + "}"
    if isinstance(value, list) and value and all(isinstance(item, (list, dict)) for item in value):
        return "[" + inner + ("," + inner).join(_text(item, depth + 1) for item in value) + pad + "]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
