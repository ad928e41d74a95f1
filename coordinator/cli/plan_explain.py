"""`slicemq plan explain PLAN`: what limits a plan, what would lift that, and what latency costs in rate."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, verb
from coordinator.cli.plan_files import read_costs, read_plan
from slicemq.errors import PlanError

if TYPE_CHECKING:
    from coordinator.planner.plan import Plan
    from coordinator.planner.problem import Costs


class BadCostsError(PlanError):
    """A costs file that is none, or is damaged."""


# For each of a dozen plans.
_SECONDS = 1.0
_OWN = {
    "whole-model-copies": ("one-node", "copies"),
    "replicated-stages": ("one-node", "pipeline", "replicas"),
    "parallel-pipelines": ("one-node", "pipeline", "parallel"),
}


@verb
def command(
    out: Output,
    plan: Path = typer.Argument(..., help="The plan file."),
    costs: Path | None = typer.Option(
        None, "--costs", help="The costs file; default: the one that the plan names, beside the plan file."
    ),
    plot: Path | None = typer.Option(None, "--plot", help="Draw it into this file: .png, .svg or .pdf."),
) -> None:
    """Say what limits a plan, what would lift that (planned anew with a number changed), and what latency costs."""
    from coordinator.cli.model_plot import check_target

    if plot is not None:
        check_target(plot)
    made = read_plan(plan)
    text = read_costs(plan, made, costs)
    try:
        body = explanation(made, text, str(plan))
    except BadCostsError as error:
        named = "" if made.costs is None else str(plan.parent / made.costs.file)
        raise PlanError(f"{named if costs is None else costs}: {error}") from error
    if plot is not None:
        from coordinator.cli.plan_plot import draw
        from coordinator.planner.explain import Point

        draw(made, [Point(**point) for point in body["pareto"]], plot)
    out.result(body, lambda: _shown(out, body, plot))


def explanation(made: Plan, text: bytes, where: str) -> dict[str, Any]:
    """What `explain` says of a plan, given its costs file.

    Raises BadCostsError when that is damaged, PlanError when it is of another model or lacks a node of the plan.
    """
    from coordinator.plan_check.ledger import Ledger
    from coordinator.planner import explain
    from coordinator.planner.books.read import costs_from_text
    from coordinator.planner.methods.exact import solve
    from coordinator.planner.shapes.compare import compare

    try:
        Ledger(text)
        costs = costs_from_text(text)
    except PlanError as error:
        raise BadCostsError(str(error)) from error
    if json.loads(text).get("model") != made.model:
        raise PlanError(f"{where}: the costs file is of another model")
    known = {node for kind in costs.types for node in kind.ids}
    for item in made.slices:
        for node in item.nodes:
            if node not in known:
                raise PlanError(f"{where}: slice {item.id}: the costs file has no node {node}")
    stateful = made.window == 1 and made.turns == 1 and made.period_ms == made.latency_ms
    found = explain.bottleneck(made, stateful, costs.hops is not None)
    quick = partial(solve, seconds=_SECONDS, certify=False)
    shapes = _shapes(made)
    rows = explain.lifts(costs, made, lambda changed: compare(changed, quick, shapes)[0].period)
    return {
        "plan": where,
        "period_ms": made.period_ms,
        "latency_ms": made.latency_ms,
        "objective": made.objective,
        "lower_bound_ms": made.lower_bound_ms,
        "method": made.method,
        "family": made.family,
        "reason": made.reason,
        "bottleneck": asdict(found) | {"words": explain.words(found)},
        "lifts": [asdict(row) for row in rows],
        "helps_most": explain.summary(rows),
        "pareto": [asdict(point) for point in explain.pareto(costs, quick)],
        "alternatives": [asdict(other) for other in made.alternatives],
        "bundles": _carried(made, costs),
    }


def _carried(made: Plan, costs: Costs) -> list[dict[str, Any]]:
    """Each bundle with its broker and why, where nodes have data brokers; nothing elsewhere."""
    from coordinator.planner.carriers import why

    if costs.data_brokers is None:
        return []
    owners, rated = costs.data_brokers.nodes, costs.broker_rate is not None
    return [
        {
            "bundle": bundle.id,
            "from": bundle.source,
            "to": list(bundle.targets),
            "bytes": bundle.bytes,
            "broker": bundle.broker,
            "why": why(made, bundle, owners, rated),
        }
        for bundle in made.bundles
    ]


def _shapes(made: Plan) -> tuple[str, ...] | None:
    """The shapes that a plan like this one may have: its own where another one that is better was forbidden."""
    better = any(other.period_ms is not None and other.period_ms < made.period_ms for other in made.alternatives)
    return _OWN.get(made.family, ("one-node", "pipeline")) if better and made.objective == "throughput" else None


def _shown(out: Output, body: dict[str, Any], plot: Path | None) -> str:
    unit, digits = {"nodes": ("nodes", 0), "energy": ("J", 4)}.get(body["objective"], ("ms", 2))
    lines = [
        f"period {body['period_ms']:.2f} ms, latency {body['latency_ms']:.2f} ms; {body['objective']} not below "
        f"{body['lower_bound_ms']:.{digits}f} {unit} ({body['family']}, {body['method']})",
        f"limited by {body['bottleneck']['words']}",
        *([f"why this shape: {body['reason']}"] if body["reason"] else []),
        "",
        out.table(
            ["if there were", "period ms", "times the rate"],
            [
                [
                    row["change"],
                    "no plan" if row["period_ms"] is None else f"{row['period_ms']:.2f}",
                    "" if row["times"] is None else f"{row['times']:.2f}",
                ]
                for row in body["lifts"]
            ],
        ),
        "",
        out.table(
            ["frames/s", "latency ms", "slices", "nodes"],
            [
                [
                    f"{point['rate']:.2f}",
                    f"{point['latency_ms']:.2f}",
                    str(point["slices"]),
                    "+".join(point["nodes"]),
                ]
                for point in body["pareto"]
            ],
        ),
        "single pipelines that no other beats in both rate and latency",
    ]
    if body["bundles"]:
        rows = [
            [
                row["bundle"],
                row["from"],
                "+".join(row["to"]),
                f"{row['bytes'] / 1e6:.3f}",
                row["broker"] or "main",
                row["why"],
            ]
            for row in body["bundles"]
        ]
        lines += ["", out.table(["bundle", "from", "to", "MB", "broker", "why"], rows)]
    if plot is not None:
        lines.append(f"drawn into {plot}")
    return "\n".join(lines)
