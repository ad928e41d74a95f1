"""From the books back to the problem that they are of, so that a plan can be made again from its costs (PURE)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

from coordinator.planner.books.arcs import Arcs, Coded, Primitives, table_of
from coordinator.planner.books.nodes import overheads, stage
from coordinator.planner.books.write import FORMAT, MAX_BYTES
from coordinator.planner.goal import Goal
from coordinator.planner.model import NodeSpec
from coordinator.planner.problem import Costs, DataBrokers, Hops, NodeType, State
from slicemq.errors import PlanError


def costs_from_text(text: str | bytes) -> Costs:
    """The problem in a costs file's text. Raises PlanError."""
    if len(text) > MAX_BYTES:
        raise PlanError(f"costs: {len(text)} bytes, expected at most {MAX_BYTES}")
    try:
        body = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"costs: not JSON: {str(error)[:200]}") from error
    return costs_from_books(body)


def costs_from_books(body: Any) -> Costs:
    """The problem in a costs file's content. Raises PlanError for what is not one."""
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise PlanError(f"costs: field format: expected {FORMAT}")
    try:
        return _costs(body)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise PlanError(f"costs: not a costs file: {type(error).__name__}: {str(error)[:200]}") from error


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _costs(body: dict[str, Any]) -> Costs:
    rows = body["states"]
    primitives = Primitives(
        sets=tuple(_bits(row[0], len(body["operators"])) for row in rows),
        legal=tuple(number for number, row in enumerate(rows) if row[2]),
        reads=tuple(tuple(row[3]) for row in body["operators"]),
        makes=tuple(tuple(row[4]) for row in body["operators"]),
        sizes={row[0]: row[3] for row in body["tensors"]},
        inputs=tuple(body["inputs"]),
        outputs=tuple(body["outputs"]),
        codecs=tuple(row[1] for row in rows),
        coded=_coded(body["tensors"]),
        prefixes=bool(body["prefixes"]),
        linked=body["links"] is not None,
    )
    arcs = primitives.arcs
    moved = primitives.traffic(body["frame_bytes"])
    into, out, relayed = moved.into, moved.out, moved.relayed
    if body["traffic"] is not None:
        into, out, relayed = (table_of(body["traffic"][name], arcs) for name in ("in", "out", "relayed"))
    n = len(rows) - 1
    links = body["links"]
    shell = Costs(
        n=n,
        types=(),
        bytes_in=into,
        bytes_out=out,
        relayed=relayed,
        memory=np.zeros_like(into),
        broker_rate=body["broker_rate"],
        slice_pins={},
        max_slices=body["max_slices"],
        states=()
        if primitives.prefixes
        else tuple(State(done, row[1]) for done, row in zip(primitives.sets, rows, strict=True)),
        hops=None if links is None else Hops(_array(links["bytes"]), np.stack([_array(r) for r in links["rates"]])),
        errors=_array([row[3] for row in rows]) if any(row[3] != 0 for row in rows) else None,
        goal=_goal(body["goal"]),
        data_brokers=_data_brokers(body.get("data_brokers")),
    )
    memories = [table_of(table["rows"], arcs) for table in body["memory"]]
    types = tuple(_type(row, body, primitives, shell, moved, memories) for row in body["nodes"])
    by_id = {node: number for number, kind in enumerate(types) for node in kind.ids}
    return replace(
        shell,
        types=types,
        memory=np.minimum.reduce([kind.memory for kind in types]),
        slice_pins={number: by_id[node] for number, node in body["slice_pins"]},
    )


def _type(
    row: dict[str, Any],
    body: dict[str, Any],
    primitives: Primitives,
    shell: Costs,
    moved: Arcs,
    memories: list[Any],
) -> NodeType:
    arcs, own, memory = primitives.arcs, row["traffic"], memories[row["memory_table"]]
    into = shell.bytes_in if own is None else table_of(own["in"], arcs)
    out = shell.bytes_out if own is None else table_of(own["out"], arcs)
    kind = NodeType(
        spec=_spec(row),
        ids=tuple(row["ids"]),
        compute=into,
        period=into,
        bytes_in=into,
        bytes_out=out,
        memory=memory,
        steps=_array(row["steps"]),
        whole=row["whole"],
        useful=row["useful"],
        moves=None if row["moves_table"] is None else table_of(body["moves"][row["moves_table"]], arcs),
    )
    compute = primitives.work(kind.steps) + overheads(body, kind, moved) / row["speed"]
    if row["compute"] is not None:
        compute = table_of(row["compute"], arcs)
    kind = replace(kind, compute=compute)
    refused = {*row["cannot_run"], *row["pinned_elsewhere"]}
    allowed = arcs & (memory <= row["memory_limit"]) & ~primitives.touching(refused)
    allowed &= primitives.coding(row["codecs"])
    if row["allowed"] is not None:
        allowed = table_of(row["allowed"], arcs) > 0
    seconds = stage(kind, shell) if row["stage"] is None else table_of(row["stage"], arcs, np.inf)
    return replace(kind, period=np.where(allowed, seconds, np.inf))


def _spec(row: dict[str, Any]) -> NodeSpec:
    return NodeSpec(
        id=row["ids"][0],
        memory=row["memory"],
        speeds=row["speeds"],
        # The books have the rates that were left for this plan.
        up=row["up"],
        down=row["down"],
        rtt=row["rtt"],
        runtime=row["runtime"],
        codecs=tuple(row["codecs"]),
        labels=row["labels"],
        watts=row["watts"],
        joules_per_byte=row["joules_per_byte"],
        held=frozenset(tuple(places) for places in row["held"]),
    )


def _data_brokers(row: dict[str, Any] | None) -> DataBrokers | None:
    return None if row is None else DataBrokers(frozenset(row["nodes"]), float(row["per_byte"]))


def _goal(row: dict[str, Any]) -> Goal:
    most = {
        name: math.inf if row[name] is None else row[name] for name in ("max_period", "max_latency", "max_energy")
    }
    return Goal(
        objective=row["objective"],
        max_nodes=row["max_nodes"],
        error_budget=row["error_budget"],
        within=row["within"],
        **most,
    )


def _coded(rows: Any) -> dict[str, dict[int, Coded]]:
    found: dict[str, dict[int, Coded]] = {}
    for row in rows:
        for codec, (size, encode, decode) in row[4].items():
            found.setdefault(codec, {})[row[0]] = Coded(size, encode, decode)
    return found


def _bits(runs: Any, steps: int) -> int:
    found = 0
    for first, last in runs:
        if not 0 <= first <= last < steps:
            raise ValueError(f"steps {first} to {last} of {steps}")
        found |= (1 << last + 1) - (1 << first)
    return found


def _array(values: Any) -> Any:
    return np.array([np.inf if value is None else float(value) for value in values])
