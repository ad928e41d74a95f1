"""What a run of the emulator reports (docs/reference/emulator-report.md): from measurements to plain data. PURE.

Numbers that are not known are null. Rates of links are Mbit/s, MB are 10^6 bytes, times ms or seconds as the names
say, energy joules by the stated model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from emulator.energy import Energy, spent
from emulator.events import describe
from emulator.figures import throughput
from emulator.measure import Measured
from emulator.scenario import Board, Scenario
from emulator.timeline import Consequence
from emulator.usage import NodeUse

FORMAT = 1
_BINS = 60


def board_row(board: Board) -> dict[str, Any]:
    """What a board of the scenario is."""
    kind = board.kind
    return {
        "name": board.name,
        "type": kind.type,
        "cpu": kind.cpu,
        "memory_mb": None if kind.memory is None else kind.memory / 1e6,
        "up_mbps": _mbps(board.up),
        "down_mbps": _mbps(board.down),
        "delay_ms": 1e3 * kind.delay,
        "jitter_ms": 1e3 * kind.jitter,
        "energy_model": {
            "idle_watts": kind.energy.idle_watts,
            "busy_watts": kind.energy.busy_watts,
            "joules_per_mb": kind.energy.joules_per_mb,
        },
    }


def plan_row(name: str, model: str, revision: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment and its plan, as `slicemq deploy --format json` tells it."""
    period, bound = float(plan["period_ms"]), float(plan["lower_bound_ms"])
    # Of another objective than the period the bound is no rate.
    of_rate = plan.get("objective", "period") == "period" and bound > 0
    return {
        "name": name,
        "model": model,
        "revision": revision,
        "family": plan["family"],
        "method": plan["method"],
        "slices": [{"id": item["id"], "nodes": list(item["nodes"])} for item in plan["slices"]],
        "planned_rate": 1e3 / period,
        "bound_rate": 1e3 / bound if of_rate else None,
        "planned_latency_ms": plan["latency_ms"],
        "window": plan["window"],
    }


def repeat_row(
    measured: Measured, boards: Sequence[Board], happened: Sequence[Consequence], processors: int
) -> dict[str, Any]:
    """One run: figures, nodes, timeline of events, throughput over time. `processors`: of this machine."""
    frames = max(1, measured.figures.frames)
    arrivals = [answer.arrived for answer in measured.answers if not answer.error]
    bins = max(1, min(_BINS, round(4 * measured.seconds)))
    nodes = {
        board.name: node_row(board, measured.nodes[board.name], measured.seconds, frames, processors)
        for board in boards
        if board.name in measured.nodes
    }
    return {
        **measured.figures.to_dict(),
        "sound": measured.figures.sound,
        "measured_seconds": measured.seconds,
        "window": measured.window,
        "nodes": nodes,
        "energy_j_per_frame": _total(row["energy_j_per_frame"] for row in nodes.values()),
        "broker_cpu_ms_per_frame": _per(measured.broker_cpu, frames, 1e3),
        "client_cpu_ms_per_frame": _per(measured.client_cpu, frames, 1e3),
        "machine_idle": measured.idle,
        "throughput": [list(point) for point in throughput(arrivals, measured.began, measured.ended, bins)],
        "events": [event_row(one, measured.began) for one in happened],
    }


def node_row(board: Board, use: NodeUse, seconds: float, frames: int, processors: int) -> dict[str, Any]:
    """What a node used, in all and for each frame of the pipeline.

    `cpu_share` is of what the board has (its share of a processor, or all `processors`), `busy` the share of the
    time in which its slices computed.
    """
    share = board.kind.cpu or float(processors)
    moved = use.sent + use.received
    energy = spent(
        board.kind.energy,
        seconds=seconds,
        cpu_seconds=use.cpu,
        share=share,
        moved=0.0 if math.isnan(moved) else moved,
    )
    return {
        "cpu_seconds": use.cpu,
        "cpu_ms_per_frame": 1e3 * use.cpu / frames,
        "cpu_share": use.cpu / (share * seconds),
        "invoke_seconds": use.invoke,
        "busy": use.invoke / seconds,
        "frames": use.frames,
        "sent_mb_per_frame": use.sent / frames / 1e6,
        "received_mb_per_frame": use.received / frames / 1e6,
        "energy_j_per_frame": energy.total / frames,
        "energy_j": _parts(energy),
    }


def event_row(one: Consequence, began: float) -> dict[str, Any]:
    """What was done, when (seconds after the load's begin), and what came of it."""
    action = one.happened.action
    return {
        "what": describe(action),
        "node": action.event.node,
        "undo": action.undo,
        "planned_at": action.at,
        "at": one.happened.began - began,
        "took": one.happened.ended - one.happened.began,
        "error": one.happened.error,
        "old_revision": one.old_revision,
        "new_revision": one.new_revision,
        "recovery_seconds": one.recovery,
        "stall_seconds": one.stall,
    }


def variant_row(
    scenario: Scenario, plans: Sequence[Mapping[str, Any]], repeats: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One variant: its sweep values, boards and plans, each repeat, and the medians over them."""
    return {
        "values": dict(scenario.values),
        "boards": [board_row(board) for board in scenario.boards()],
        "deployments": [dict(plan) for plan in plans],
        "repeats": [dict(repeat) for repeat in repeats],
        "median": _median(repeats),
    }


def report(
    scenario: Scenario,
    variants: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]] = (),
    *,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    began: str,
    seconds: float,
    isolated: bool,
) -> dict[str, Any]:
    """The whole report, ready for JSON. `began`: ISO 8601; `seconds`: how long all took.

    failures: `values`, `error` and `exit_code` of each variant that could not be measured.
    """
    body = {
        "format": FORMAT,
        "scenario": {
            "name": scenario.name,
            "title": scenario.title,
            "broker": scenario.broker.kind,
            "repeats": scenario.run.repeats,
            "seed": scenario.run.seed,
            "isolated": isolated,
        },
        "machine": dict(machine),
        "versions": dict(versions),
        "began": began,
        "seconds": seconds,
        "variants": _beside_one([dict(variant) for variant in variants]),
        "failures": [dict(failure) for failure in failures],
    }
    cleaned: dict[str, Any] = _plain(body)
    return cleaned


def _beside_one(variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds `beside_one`: rate and energy as ratios to the variant with one node and else the same values."""
    alone = {_others(variant): variant["median"] for variant in variants if len(variant["boards"]) == 1}
    for variant in variants:
        base, mine = alone.get(_others(variant)), variant["median"]
        if base is None or not base["rate"]:
            variant["beside_one"] = None
            continue
        # A board that the plan left out is not one of its nodes.
        per_node = [row["energy_j_per_frame"] for row in mine["nodes"].values() if row["busy"]]
        single = base["energy_j_per_frame"]
        known = single is not None and single > 0 and per_node and all(math.isfinite(joules) for joules in per_node)
        variant["beside_one"] = {
            "rate": mine["rate"] / base["rate"],
            "energy": mine["energy_j_per_frame"] / single if known else None,
            "energy_per_node": statistics.mean(per_node) / single if known else None,
        }
    return variants


def _others(variant: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, str(value)) for name, value in variant["values"].items() if name != "nodes"))


def _median(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def over(*path: str) -> float | None:
        found = []
        for repeat in repeats:
            inner: Any = repeat
            for name in path:
                inner = inner[name]
            if inner is not None and math.isfinite(inner):
                found.append(float(inner))
        return statistics.median(found) if found else None

    first = repeats[0]
    names = ("cpu_ms_per_frame", "cpu_share", "busy", "sent_mb_per_frame", "received_mb_per_frame")
    return {
        "rate": over("rate"),
        "latency_ms": {name: over("latency_ms", name) for name in first["latency_ms"]},
        "energy_j_per_frame": over("energy_j_per_frame"),
        "broker_cpu_ms_per_frame": over("broker_cpu_ms_per_frame"),
        "client_cpu_ms_per_frame": over("client_cpu_ms_per_frame"),
        "machine_idle": over("machine_idle"),
        "nodes": {
            node: {name: over("nodes", node, name) for name in (*names, "energy_j_per_frame")}
            for node in first["nodes"]
            if all(node in repeat["nodes"] for repeat in repeats)
        },
    }


def _parts(energy: Energy) -> dict[str, float]:
    return {"idle": energy.idle, "busy": energy.busy, "moved": energy.moved}


def _total(values: Any) -> float | None:
    found = list(values)
    return sum(found) if found else None


def _per(total: float | None, frames: int, unit: float) -> float | None:
    return None if total is None else unit * total / frames


def _mbps(rate: float | None) -> float | None:
    return None if rate is None else rate / 1e6


def _plain(value: Any) -> Any:
    """JSON knows no NaN: what is not known is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
