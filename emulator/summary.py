"""A report for people: what was run, one row for each variant, the events, the nodes. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST_NODES = 24
_VARIANT = (
    *("variant", "boards", "slices", "window", "frames/s", "planned", "of bound", "p50 ms", "p95 ms"),
    *("answered", "x one node", "J/frame", "J/node x one"),
)
_NODE = ("node", "CPU ms/frame", "CPU share", "busy", "MB sent", "MB received", "J/frame")
_EVENT = ("at s", "event", "recovery s", "longest stall s", "revision after", "")


def as_text(report: Mapping[str, Any]) -> str:
    """The report (emulator.report) as text tables."""
    scenario, machine = report["scenario"], report["machine"]
    variants = report["variants"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{scenario['name']}: {scenario['title']}".rstrip(": "),
        f"{machine['processor']}, {machine['processors']} processors, {machine['kernel']}; {versions}",
        f"{report['seconds']:.0f} s in all; medians of {scenario['repeats']}"
        + ("" if scenario["isolated"] else "; without isolation: no link rates"),
    ]
    if variants:
        lines += ["", *_table(_VARIANT, map(_variant, variants))]
    for variant in variants:
        events = [event for repeat in variant["repeats"] for event in repeat["events"]]
        if events:
            lines += ["", f"Events{_of(variant)}", *_table(_EVENT, map(_event, events))]
    nodes = list(variants[-1]["median"]["nodes"].items()) if variants else []
    if nodes:
        rows = [_node(*one) for one in nodes[:_MOST_NODES]]
        lines += ["", f"Nodes{_of(variants[-1])}", *_table(_NODE, rows)]
    if len(nodes) > _MOST_NODES:
        lines.append(f"... and {len(nodes) - _MOST_NODES} more")
    for failure in report["failures"]:
        lines += ["", f"not measured{_of(failure)}: {failure['error']}"]
    return "\n".join(lines)


def values_text(values: Mapping[str, Any]) -> str:
    """A sweep's values: `nodes 4, rate 100 Mbit/s`."""
    return ", ".join(f"{name} {_value(name, value)}" for name, value in values.items())


def _variant(variant: Mapping[str, Any]) -> tuple[str, ...]:
    median, beside = variant["median"], variant["beside_one"] or {}
    plan = variant["deployments"][0] if variant["deployments"] else {}
    total = {
        name: sum(repeat[name] for repeat in variant["repeats"]) for name in ("answered", "submitted", "different")
    }
    bound = plan.get("bound_rate")
    return (
        values_text(variant["values"]) or "-",
        str(len(variant["boards"])),
        str(len(plan.get("slices", ()))),
        str(variant["repeats"][0]["window"]),
        _number(median["rate"], 2),
        _number(plan.get("planned_rate"), 2),
        _number(100 * median["rate"] / bound if bound and median["rate"] is not None else None, 0, " %"),
        _number(median["latency_ms"]["p50"], 0),
        _number(median["latency_ms"]["p95"], 0),
        f"{total['answered']} of {total['submitted']}"
        + (f", {total['different']} different" if total["different"] else ""),
        _number(beside.get("rate"), 2),
        _number(median["energy_j_per_frame"], 3),
        _number(beside.get("energy_per_node"), 2),
    )


def _node(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    share, busy = row["cpu_share"], row["busy"]
    return (
        name,
        _number(row["cpu_ms_per_frame"], 2),
        _number(None if share is None else 100 * share, 0, " %"),
        _number(None if busy is None else 100 * busy, 0, " %"),
        _number(row["sent_mb_per_frame"], 3),
        _number(row["received_mb_per_frame"], 3),
        _number(row["energy_j_per_frame"], 3),
    )


def _event(event: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _number(event["at"], 1),
        event["what"],
        _number(event["recovery_seconds"], 2),
        _number(event["stall_seconds"], 2),
        event["new_revision"] or "the same",
        f"failed: {event['error']}" if event["error"] else "",
    )


def _value(name: str, value: Any) -> str:
    if name == "rate":
        return f"{value / 1e6:g} Mbit/s"
    return f"{value / 1e6:g} MB" if name == "memory" else str(value)


def _of(variant: Mapping[str, Any]) -> str:
    values = values_text(variant["values"])
    return f" ({values})" if values else ""


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [tuple(heads), *rows]
    # A column without a single figure says nothing.
    keep = [i for i in range(len(heads)) if i == 0 or any(row[i] not in ("-", "") for row in body[1:])]
    widths = [max(len(row[i]) for row in body) for i in keep]
    return ["  ".join(row[i].ljust(w) for i, w in zip(keep, widths, strict=True)).rstrip() for row in body]
