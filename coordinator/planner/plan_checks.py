"""What must hold in a plan file that people may have edited; every refusal names the field (PURE)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from coordinator.planner.lanes import PlanLane, lanes_of
from slicemq.codecs import CODECS
from slicemq.errors import PlanError
from slicemq.topics import is_id, is_sha256

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.planner.plan import Plan, PlannedBundle

CLIENT = "client"
_HINT = "leave `bundles` out to have them made from the slices"


def _check(holds: bool, field: str, expected: str) -> None:
    if not holds:
        raise PlanError(f"plan: field {field}: {expected}")


def check_shape(plan: Plan) -> None:
    """What holds for any plan, whatever its model. Raises PlanError."""
    _check(is_sha256(plan.model), "model", "expected 64 lower-case hex digits")
    for name in ("period_ms", "latency_ms", "lower_bound_ms", "gap", "solve_seconds"):
        _check(getattr(plan, name) >= 0, name, "expected at least 0")
    _check(1 <= plan.window <= 1 << 20, "window", f"expected 1 to {1 << 20}, got {plan.window}")
    _check(len(plan.slices) > 0, "slices", "expected at least one")
    for number, item in enumerate(plan.slices):
        where = f"slices[{number}]"
        _check(item.id == f"s{number}", f"{where}.id", f"expected s{number}, got {item.id!r}")
        for node in item.nodes:
            _check(is_id(node), f"{where}.nodes", f"{node!r} is not a node's id")
        _check(len(item.operators) > 0, f"{where}.operators", "expected at least one")
        for name in ("memory_mb", "compute_ms", "down_ms", "up_ms", "bytes_in", "bytes_out", "busy_ms"):
            _check(getattr(item, name) >= 0, f"{where}.{name}", "expected at least 0")
        _check(len(set(item.operators)) == len(item.operators), f"{where}.operators", "an operator is there twice")
    for lane in lanes_of(plan.slices, plan.turns):
        _check_lane(plan, lane)
    ends = {CLIENT, *(item.id for item in plan.slices)}
    names = [bundle.id for bundle in plan.bundles]
    for number, bundle in enumerate(plan.bundles):
        where = f"bundles[{number}]"
        _check(is_id(bundle.id), f"{where}.id", f"{bundle.id!r} is not an id")
        _check(names.count(bundle.id) == 1, f"{where}.id", f"{bundle.id} is there twice")
        _check(bundle.source in ends, f"{where}.from", f"{bundle.source!r} is neither a slice nor client")
        _check(len(bundle.targets) > 0, f"{where}.to", "expected at least one")
        for target in bundle.targets:
            _check(target in ends, f"{where}.to", f"{target!r} is neither a slice nor client")
        _check(bundle.bytes >= 0, f"{where}.bytes", "expected at least 0")
        _check(bundle.codec in CODECS, f"{where}.codec", f"expected {', '.join(CODECS)}, got {bundle.codec!r}")
        if bundle.broker:
            _check_broker(plan, bundle, f"{where}.broker")


def _check_broker(plan: Plan, bundle: PlannedBundle, field: str) -> None:
    _check(CLIENT not in (bundle.source, *bundle.targets), field, "expected none: clients use the main broker only")
    _check(len(bundle.targets) == 1, field, "expected none: a bundle for several slices is on the main broker")
    nodes = next(item.nodes for item in plan.slices if item.id == bundle.targets[0])
    _check(
        nodes == (bundle.broker,),
        field,
        f"{bundle.broker!r}: expected the only node of slice {bundle.targets[0]} ({', '.join(nodes)})",
    )


def _check_lane(plan: Plan, lane: PlanLane) -> None:
    seen: dict[int, str] = {}
    for number in range(lane.first, lane.stop):
        item = plan.slices[number]
        for operator in item.operators:
            other = seen.setdefault(operator, item.id)
            _check(
                other == item.id,
                f"slices[{number}].operators",
                f"operator {operator} is in slice {other} too" + _in_turn(plan, lane),
            )


def _in_turn(plan: Plan, lane: PlanLane) -> str:
    return f" in turn {lane.turns[0]}" if plan.turns > 1 else ""


def check_nodes(plan: Plan, nodes: Collection[str]) -> None:
    """Every node is one of `nodes`. Raises PlanError."""
    for number, item in enumerate(plan.slices):
        for node in item.nodes:
            known = ", ".join(sorted(nodes)[:20])
            _check(node in nodes, f"slices[{number}].nodes", f"there is no node {node}; there are {known}")


def check_operators(plan: Plan, graph: Graph) -> None:
    """The plan is for this model, and places each of its steps once in every turn. Raises PlanError."""
    _check(plan.model == graph.sha256, "model", f"the plan is for {plan.model}, the model is {graph.sha256}")
    _check(
        plan.turns == 1 or not graph.stateful,
        "turns",
        f"{plan.turns}, expected 1: the model keeps state between frames, so they all go the same way",
    )
    steps = set(graph.steps)
    last = len(graph.operators) - 1
    for number, item in enumerate(plan.slices):
        where = f"slices[{number}].operators"
        for operator in item.operators:
            _check(0 <= operator <= last, where, f"operator {operator}: the model has 0 to {last}")
            _check(
                operator in steps or graph.operators[operator].recomputed,
                where,
                f"operator {operator} ({graph.operators[operator].name}) is not placed by a plan: it is fed by "
                "constants only and goes with its consumers, or no output needs it",
            )
    for lane in lanes_of(plan.slices, plan.turns):
        placed = {operator for item in plan.slices[lane.first : lane.stop] for operator in item.operators}
        left = sorted(steps - placed)
        _check(not left, "slices", f"operators in no slice{_in_turn(plan, lane)}: {', '.join(map(str, left[:20]))}")


def check_bundles(plan: Plan, expected: Sequence[PlannedBundle]) -> None:
    """The plan's bundles are those that its slices need (codecs and brokers are free). Raises PlanError."""
    found = {bundle.id: bundle for bundle in plan.bundles}
    for bundle in expected:
        mine = found.get(bundle.id)
        if mine is None:
            raise PlanError(f"plan: field bundles: {bundle.id} is missing ({_HINT})")
        same = (mine.source, set(mine.targets), set(mine.tensors)) == (
            bundle.source,
            set(bundle.targets),
            set(bundle.tensors),
        )
        _check(
            same,
            f"bundles {bundle.id}",
            f"with these slices it goes from {bundle.source} to {', '.join(bundle.targets)} with the tensors "
            f"{', '.join(map(str, bundle.tensors))} ({_HINT})",
        )
    extra = sorted(found.keys() - {bundle.id for bundle in expected})
    _check(not extra, "bundles", f"{', '.join(extra)}: these slices have no such bundle")
