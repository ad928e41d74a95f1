"""`slicemq node list`: the nodes and what they offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.cli.common import Network, Output, verb
from slicemq.messages import to_plain

if TYPE_CHECKING:
    from coordinator.cli.view import View

COLUMNS = [
    "node",
    "state",
    "arch",
    "cores",
    "memory MB",
    "runtime",
    "up Mbit/s",
    "down Mbit/s",
    "rtt ms",
    "data broker",
    "slices",
]

_CELLS = ("arch", "cores", "memory_mb", "runtime", "up_mbps", "down_mbps", "rtt_ms")


@verb
def command(net: Network, out: Output) -> None:
    """List the nodes of the cluster."""
    from coordinator.cli.view import read_view

    rows = node_rows(read_view(net))
    out.result(
        {"cluster": net.cluster, "nodes": rows},
        lambda: node_table(rows, out) if rows else f"no nodes in cluster {net.cluster}",
    )


def node_rows(view: View) -> list[dict[str, Any]]:
    """One plain row a node, for `node list` and `status`."""
    rows = []
    for node in sorted(view.states.keys() | view.capacities.keys()):
        capacity, beat, report = view.capacities.get(node), view.beats.get(node), view.reports.get(node)
        row: dict[str, Any] = {
            "node": node,
            "state": view.state_of(node),
            "draining": view.draining(node) is not None,
            "draining_why": view.draining(node) or "",
        }
        if capacity is not None:
            row |= {
                "arch": capacity.arch,
                "cores": capacity.cores,
                "threads": capacity.threads,
                "memory_mb": round(capacity.memory / 1e6, 1),
                "runtime": f"{capacity.runtime.name} {capacity.runtime.version}",
                "up_mbps": round(capacity.link.up * 8 / 1e6, 1),
                "down_mbps": round(capacity.link.down * 8 / 1e6, 1),
                "rtt_ms": round(capacity.link.rtt * 1e3, 2),
                "speeds": capacity.speeds,
                "codecs": list(capacity.codecs),
                "labels": capacity.labels,
                "operators": capacity.operators,
                "data_broker": capacity.broker,
            }
        if beat is not None:
            row |= {"load": beat.load, "memory_used_mb": round(beat.memory_used / 1e6, 1)}
        row["slices"] = [
            {"pipeline": s.pipeline, "revision": s.revision, "slice": s.slice, "state": s.state, "reason": s.reason}
            for s in (report.slices if report is not None and beat is not None else ())
        ]
        row["crashes"] = [
            {"pipeline": c.pipeline, "revision": c.revision, "slice": c.slice, "count": c.count, "how": c.how}
            | {"frame": to_plain(c.frame) if c.frame is not None else None}
            for c in (report.crashes if report is not None else ())
        ]
        rows.append(row)
    return rows


def node_table(rows: list[dict[str, Any]], out: Output) -> str:
    """The rows as text."""
    cells = []
    for row in rows:
        slices = " ".join(f"{s['pipeline']}/{s['slice']}:{s['state']}" for s in row["slices"])
        middle = [
            row.get(key) for key in ("arch", "cores", "memory_mb", "runtime", "up_mbps", "down_mbps", "rtt_ms")
        ]
        known = ["" if v is None else str(v) for v in middle]
        state = f"{row['state']}, draining" if row["draining"] and row["state"] != "draining" else row["state"]
        cells.append([row["node"], state, *known, row.get("data_broker") or "-", slices or "-"])
    return out.table(COLUMNS, cells)
