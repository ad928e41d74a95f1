"""The nodes' part of the books: what each costs, and the tables that do not follow from it (PURE)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coordinator.planner.books.arcs import Arcs, Primitives, plain_number, rows_of
from coordinator.planner.problem import Costs, NodeType

NEAR: dict[str, Any] = {"rtol": 1e-12, "atol": 0.0}
"""Tables that are so near to what follows from the other numbers are left out."""


def node_row(
    kind: NodeType,
    costs: Costs,
    body: dict[str, Any],
    primitives: Primitives,
    moved: Arcs,
    memories: list[dict[str, Any]],
    seen: list[Any],
    moves: list[Any],
) -> dict[str, Any]:
    """One entry of `nodes`; a table of memory that is not yet among `memories` is added to them, and to `seen`.

    The same for `moves`.
    """
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
    formula = np.allclose(compute[arcs], kind.compute[arcs], **NEAR)
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
        "memory_table": _memory(kind, arcs, memories, seen),
        "speed": speed,
        "down": rates[0],
        "up": rates[1],
        "rtt": spec.rtt,
        "watts": spec.watts,
        "joules_per_byte": spec.joules_per_byte,
        "steps": plain_row(kind.steps),
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
        "stage": None if np.allclose(period[allowed], kind.period[allowed], **NEAR) else rows_of(kind.period, arcs),
        "allowed": None if np.array_equal(possible, allowed) else rows_of(allowed.astype(float), arcs),
        "moves_table": None if kind.moves is None else _number_of(rows_of(kind.moves, arcs), moves),
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
    found = primitives.covered(fits) & ~primitives.covered(allowed)
    return {int(step) for step in np.flatnonzero(found)}


def overheads(body: dict[str, Any], kind: NodeType, moved: Arcs) -> Any:
    """Seconds besides the steps' own, on the machine of speed 1: a call, messages, bytes and codecs."""
    costs, into, out = body["overheads"], kind.bytes_in, kind.bytes_out
    moving = (
        costs["message"] * ((into > 0).astype(float) + (out > 0))
        + costs["receive_per_byte"] * into
        + costs["send_per_byte"] * out
    )
    moving = moving + moved.codec_seconds
    if body["links"] is not None:
        # What crosses between two slices is read and written all the same.
        crosses = np.array([float(value) for value in body["links"]["bytes"]])
        messages = costs["message"] * (crosses > 0)
        moving = moving + (messages + costs["receive_per_byte"] * crosses)[:, None]
        moving = moving + (messages + costs["send_per_byte"] * crosses)[None, :]
    return body["profile"]["call"] + moving


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


def _memory(kind: NodeType, arcs: Any, memories: list[dict[str, Any]], seen: list[Any]) -> int:
    """The number of the node's table of memory; `seen` are the tables of `memories`."""
    for number, table in enumerate(seen):
        if table is kind.memory or np.array_equal(table[arcs], kind.memory[arcs]):
            if kind.spec.runtime not in memories[number]["runtimes"]:
                memories[number]["runtimes"].append(kind.spec.runtime)
            return number
    seen.append(kind.memory)
    memories.append({"runtimes": [kind.spec.runtime], "rows": rows_of(kind.memory, arcs)})
    return len(memories) - 1


def _number_of(rows: Any, tables: list[Any]) -> int:
    """The place of a table among others, at the end if it is not yet there."""
    if rows not in tables:
        tables.append(rows)
    return tables.index(rows)


def plain_row(values: Any) -> list[float | int | None]:
    """Numbers as the books write them."""
    return [plain_number(float(value)) for value in values]
