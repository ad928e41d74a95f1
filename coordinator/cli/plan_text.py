"""A plan as people read it: a row for each slice, what limits it, and the shapes that it was compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli.common import Output

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.planner.model import Fleet
    from coordinator.planner.plan import Alternative, Plan

FAMILIES = {
    "contiguous-one-per-node": "pipeline of contiguous slices, one on a node,",
    "dag-one-per-node": "pipeline, one slice on a node,",
    "one-node": "one node alone",
    "whole-model-copies": "copies of the whole model",
    "replicated-stages": "pipeline with replicated stages",
    "parallel-pipelines": "pipelines side by side",
}


def describe(plan: Plan, graph: Graph, fleet: Fleet, out: Output, written: Path | None = None) -> str:
    """The plan for people: a row for each slice, what limits it, and what it is compared with."""
    from coordinator.planner.explain import bottleneck, busy_ms, words

    rows = [
        [
            item.id,
            "+".join(item.nodes),
            ranges(item.operators),
            f"{item.compute_ms:.2f}",
            f"{item.down_ms:.2f}",
            f"{item.up_ms:.2f}",
            f"{item.bytes_in / 1e6:.3f}",
            f"{item.bytes_out / 1e6:.3f}",
            f"{item.memory_mb:.1f}",
            f"{100 * busy_ms(plan, item) / plan.period_ms:.0f}%" if plan.period_ms else "",
        ]
        for item in plan.slices
    ]
    columns = [
        "slice",
        "node",
        "operators",
        "compute ms",
        "down ms",
        "up ms",
        "MB in",
        "MB out",
        "memory MB",
        "load",
    ]
    lines = [out.table(columns, rows), ""]
    rate = f"{1e3 / plan.period_ms:.2f} frames/s" if plan.period_ms else "no measurable time"
    busy = (
        "one frame at a time, because it keeps state"
        if graph.stateful
        else f"{plan.window} frames on their way keep it busy"
    )
    lines.append(f"period {plan.period_ms:.2f} ms ({rate}), latency {plan.latency_ms:.2f} ms, {busy}")
    if not graph.stateful:
        lines.append(f"limited by {words(bottleneck(plan))}")
    lines.append(_certified(plan))
    lines += codec_lines(plan)
    lines += carrier_lines(plan)
    if plan.reason:
        lines.append(plan.reason)
    lines += [_compared(plan, other) for other in plan.alternatives]
    used = {node for item in plan.slices for node in item.nodes}
    unused = [node.id for node in fleet.nodes if node.id not in used]
    if unused:
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        lines.append(f"not used: {', '.join(unused[:10])}{more}")
    source = f"measured with {plan.profile.runtime}" if plan.profile.measured else "estimated, not measured"
    lines.append(f"{len(graph.steps)} operators, costs {source}; planned in {plan.solve_seconds:.2f} s")
    if written is not None:
        lines.append(f"written to {written}")
    return "\n".join(lines)


def codec_lines(plan: Plan) -> list[str]:
    """The codecs between the slices, and how far the results may be off; nothing when all is raw."""
    sent = [f"{b.codec} from {b.source} to {'+'.join(b.targets)}" for b in plan.bundles if b.codec != "raw"]
    lines = (
        [f"codecs: {', '.join(sent[:8])}{f' and {len(sent) - 8} more' if len(sent) > 8 else ''}"] if sent else []
    )
    if plan.error is not None:
        lines.append(error_line(asdict(plan.error)))
    return lines


def error_line(error: Mapping[str, Any]) -> str:
    """How far results may be off, of a plan file's field `error`."""
    known, samples = error.get("measured"), error.get("samples")
    where = {"noise": " on noise", "calibration": " on the calibration set"}.get(str(samples), "")
    measured = "" if known is None else f", measured {100 * known:.2g} %{where}"
    return (
        f"results off by (share of an output's largest): estimated {100 * error['estimated']:.2g} %{measured}, "
        f"budget {100 * error['budget']:.2g} %"
    )


def carrier_lines(plan: Plan) -> list[str]:
    """The bundles that do not go over the main broker; nothing when all do."""
    found = [f"{b.id} ({b.bytes / 1e6:.3f} MB) on {b.broker}" for b in plan.bundles if b.broker]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return [f"over data brokers: {', '.join(found[:8])}{more}"] if found else []


def _certified(plan: Plan) -> str:
    name = FAMILIES.get(plan.family, plan.family)
    unit, digits = {"nodes": ("nodes", 0), "energy": ("J", 4)}.get(plan.objective, ("ms", 2))
    bound = f"{plan.lower_bound_ms:.{digits}f} {unit}"
    if plan.gap <= 1e-3 and plan.method != "heuristic":
        return f"no {name} is below {bound} (exact: {plan.method})"
    return f"no {name} is below {bound}: this plan is at most {100 * plan.gap:.1f} % from the best ({plan.method})"


def _compared(plan: Plan, other: Alternative) -> str:
    name = FAMILIES.get(other.family, other.family)
    if other.period_ms is None:
        return f"{name}: {other.reason}"
    gain = f"{other.period_ms / plan.period_ms:.2f} times the period" if plan.period_ms else "no difference"
    shown = ", ".join(other.nodes[:4]) + (f" and {len(other.nodes) - 4} more" if len(other.nodes) > 4 else "")
    return f"{name} ({shown}): period {other.period_ms:.2f} ms, {gain}"


def ranges(operators: tuple[int, ...]) -> str:
    """Operators as `0-6,9`; many ranges as the first and the last with the number of operators."""
    found: list[tuple[int, int]] = []
    for operator in sorted(operators):
        if found and operator == found[-1][1] + 1:
            found[-1] = (found[-1][0], operator)
        else:
            found.append((operator, operator))
    texts = [f"{a}-{b}" if b > a else str(a) for a, b in found]
    return ",".join(texts) if len(texts) <= 3 else f"{texts[0]}..{texts[-1]} ({len(operators)})"
