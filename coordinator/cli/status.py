"""`slicemq status`: coordinator, nodes and pipelines at one glance."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from coordinator.cli.common import Network, Output, verb
from slicemq.messages import to_plain

if TYPE_CHECKING:
    from coordinator.cli.view import View
    from slicemq.messages import SliceBeat


@verb
def command(net: Network, out: Output) -> None:
    """Show the coordinator, the nodes and the pipelines."""
    from coordinator.cli.view import read_view

    body = status_body(read_view(net), net, time.time())
    out.result(body, lambda: status_text(body, out))


def status_body(view: View, net: Network, now: float) -> dict[str, Any]:
    """What a view of the cluster says, as plain JSON, at the Unix time `now`."""
    from coordinator.cli.node_list import node_rows
    from coordinator.cli.rollouts import document_row

    return {
        "cluster": net.cluster,
        "broker": net.options.describe(),
        "coordinator": _coordinator(view),
        "standbys": [_standby(view, instance) for instance in sorted(view.standbys)],
        "nodes": node_rows(view),
        "pipelines": [_pipeline(view, name) for name in sorted(view.pipelines)],
        "rollouts": [document_row(document, now) for _, document in sorted(view.rollouts.items())],
    }


def _coordinator(view: View) -> dict[str, Any] | None:
    state = view.coordinator
    if state is None:
        return None
    return {
        "state": view.coordinator_state,
        "term": state.stamp.term,
        "instance": state.stamp.instance,
        "since": state.since,
        "software": state.software,
    }


def _standby(view: View, instance: str) -> dict[str, Any]:
    state = view.standbys[instance]
    return {"instance": instance, "state": state.state, "since": state.since, "software": state.software}


def _pipeline(view: View, name: str) -> dict[str, Any]:
    document = view.pipelines[name]
    plan = view.plans.get(name)
    beats = {
        (item.revision, item.slice, beat.node): item
        for beat in view.beats.values()
        for item in beat.slices
        if item.pipeline == name
    }
    planning = plan.planning if plan is not None else {}
    corrections = planning.get("corrections", {})
    turns = plan.plan.get("turns", 1) if plan is not None else 1
    slices = []
    for entry in plan.plan.get("slices", []) if plan is not None else []:
        for place, node in enumerate(entry["nodes"]):
            beat = beats.get((plan.revision if plan is not None else "", entry["id"], node))
            slices.append(
                {
                    "slice": entry["id"],
                    "node": node,
                    "turns": entry["turns"][place] if entry.get("turns") else list(range(turns)),
                    "planned_ms": round(entry["compute_ms"], 3),
                    **_measured(entry["compute_ms"], beat),
                    "correction": corrections.get(entry["id"], {}).get(node, 1.0),
                    "frames": beat.frames if beat is not None else None,
                    "invoke_ms": round(beat.invoke_ms, 3) if beat is not None else None,
                    "queued": beat.queued if beat is not None else None,
                    "dropped": beat.dropped if beat is not None else None,
                    "link": beat.link if beat is not None else None,
                }
            )
    return {
        "name": name,
        "state": document.state,
        "reason": document.reason,
        "model": document.model,
        "routes": [{"revision": r.revision, "state": r.state, "weight": r.weight} for r in document.routes],
        "shadow": (
            {"revision": document.shadow.revision, "weight": document.shadow.weight}
            if document.shadow is not None
            else None
        ),
        "poisoned": [to_plain(frame) for frame in document.poisoned],
        "window": document.window,
        "clients": document.clients,
        "stateful": document.stateful,
        "period_ms": plan.plan.get("period_ms") if plan is not None else None,
        "contingencies": planning.get("contingencies", {"ready": 0, "wanted": 0}),
        "prepared_for": planning.get("prepared_for") or None,
        "moved": planning.get("moved") or None,
        "turns": turns,
        "slices": slices,
        "data_brokers": {
            row["id"]: row["broker"]
            for row in (plan.plan.get("bundles", []) if plan is not None else [])
            if row.get("broker")
        },
    }


def _measured(planned_ms: float, beat: SliceBeat | None) -> dict[str, float | None]:
    """What the plan counts as computing, as the worker measured it in its last frames, and their ratio.

    Sending is left out: its time is mostly that of the link, which works beside the computing.
    """
    if beat is None or not beat.frames:
        return {"measured_ms": None, "ratio": None}
    measured = beat.receive_ms + beat.decode_ms + beat.invoke_ms + beat.encode_ms
    return {
        "measured_ms": round(measured, 3),
        "ratio": round(measured / planned_ms, 3) if planned_ms > 0 else None,
    }


def status_text(body: dict[str, Any], out: Output) -> str:
    """`status_body` for people."""
    from coordinator.cli.node_list import node_table

    coordinator = body["coordinator"]
    lines = [f"cluster {body['cluster']} at {body['broker']}"]
    if coordinator is None:
        lines.append("coordinator: none has ever been there")
    else:
        # A last will was written before its coordinator knew its term.
        term = f"term {coordinator['term']}, " if coordinator["term"] else ""
        lines.append(f"coordinator: {coordinator['state']} ({term}{coordinator['software']})")
    lines += [f"standby {one['instance'][:8]}: {one['state']} ({one['software']})" for one in body["standbys"]]
    lines += ["", node_table(body["nodes"], out) if body["nodes"] else "no nodes"]
    lines += [f"  {line}" for line in _node_notes(body["nodes"])]
    rollouts = {row["name"]: row["current"] for row in body["rollouts"] if row["current"] is not None}
    for pipeline in body["pipelines"]:
        routes = ", ".join(map(_route, pipeline["routes"])) or "no route"
        kind = ", stateful: one client at a time" if pipeline["stateful"] else ""
        lines += ["", f"pipeline {pipeline['name']}: {pipeline['state']} ({routes}){kind}"]
        if pipeline["reason"]:
            lines.append(f"  {pipeline['reason']}")
        lines += [f"  {line}" for line in _pipeline_notes(pipeline, rollouts.get(pipeline["name"]))]
        ahead = pipeline["contingencies"]
        if ahead["wanted"]:
            lines.append(f"  plans for the loss of a node: {ahead['ready']} of {ahead['wanted']} ready")
        if pipeline["prepared_for"]:
            lines.append(f"  runs by the plan made ahead for the loss of node {pipeline['prepared_for']}")
        if pipeline["moved"]:
            lines.append(f"  it moved by itself: {pipeline['moved']}")
        if pipeline["data_brokers"]:
            carried = ", ".join(f"{bundle} on {node}" for bundle, node in pipeline["data_brokers"].items())
            lines.append(f"  over data brokers: {carried}")
        if pipeline["slices"]:
            columns = ["slice", "node", "planned_ms", "measured_ms", "ratio", "frames", "queued", "dropped"]
            rows = [["" if item[key] is None else str(item[key]) for key in columns] for item in pipeline["slices"]]
            if (turns := pipeline["turns"]) > 1:
                columns.insert(2, "turns")
                for row, item in zip(rows, pipeline["slices"], strict=True):
                    row.insert(2, f"{len(item['turns'])} of {turns}")
            lines.append(out.table(columns, rows))
    return "\n".join(lines)


def _route(route: dict[str, Any]) -> str:
    """`3-9f2c41d7 active`, with its share of the frames where that is not all of them."""
    share = f" {100 * route['weight']:g}%" if route["state"] == "active" and route["weight"] != 1.0 else ""
    return f"{route['revision']} {route['state']}{share}"


def _node_notes(nodes: list[dict[str, Any]]) -> list[str]:
    """What the table of the nodes has no column for: why a draining one is not empty, and workers that died."""
    notes = [f"{row['node']}: still has slices: {row['draining_why']}" for row in nodes if row["draining_why"]]
    for row in nodes:
        for crash in row["crashes"]:
            frame = crash["frame"]
            doing = f"on frame {frame['sequence']} of {frame['client']}" if frame is not None else "while it loaded"
            often = "once" if crash["count"] == 1 else f"{crash['count']} times"
            what = f"{crash['pipeline']}/{crash['slice']} ({crash['revision']})"
            notes.append(f"{row['node']}: the worker of {what} died {doing}, {often}: {crash['how']}")
    return notes


def _pipeline_notes(pipeline: dict[str, Any], rollout: dict[str, Any] | None) -> list[str]:
    notes = []
    if rollout is not None:
        share = f" at {100 * rollout['fraction']:g}% of the frames" if rollout["fraction"] else ""
        paused = ", paused" if rollout["paused"] else ""
        notes.append(
            f"rollout of {rollout['revision']}: {rollout['state']}{share}{paused} {rollout['reason']}".rstrip()
        )
    if pipeline["shadow"] is not None:
        shadow = pipeline["shadow"]
        notes.append(f"{100 * shadow['weight']:g}% of the frames are copied to {shadow['revision']}")
    if pipeline["poisoned"]:
        frames = ", ".join(f"{f['sequence']} of {f['client']}" for f in pipeline["poisoned"])
        notes.append(f"poisoned frames: {frames}")
    return notes
