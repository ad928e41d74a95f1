"""`slicemq plan make FILE`: which slices on which nodes, without deploying anything."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Network, Output, model_verb
from coordinator.cli.model_files import INPUT_SHAPE, parse_shapes
from slicemq.errors import (
    InsufficientCapacityError,
    ModelError,
    ProtocolError,
    SliceMQError,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile
    from converters.schema import Bytes
    from coordinator.planner.model import Fleet, PlanOptions
    from coordinator.planner.plan import CostsFile, Plan
    from coordinator.planner.problem import Costs
    from slicemq.messages import Capacity

logger = logging.getLogger("slicemq.plan")
_CONNECT_SECONDS = 5.0


@model_verb
def command(
    net: Network,
    out: Output,
    file: Path = typer.Argument(..., help="The model, a .tflite file."),
    fleet: Path | None = typer.Option(
        None, "--fleet", help="Plan for the nodes of this fleet file; default: the cluster's ready nodes."
    ),
    output: Path | None = typer.Option(None, "-o", "--output", help="Write the plan file (JSON) here."),
    profile: str = typer.Option(
        "measure", "--profile", help="Operator costs: measure (on this machine) or estimate (from the graph alone)."
    ),
    pin: list[str] = typer.Option(
        [], "--pin", help="SLICE=NODE (s0=pi-1) or FIRST-LAST=NODE (operators 10-20=pi-1); may be repeated."
    ),
    exclude: list[str] = typer.Option([], "--exclude", help="A node to leave out; may be given several times."),
    max_slices: int | None = typer.Option(None, "--max-slices", min=1, help="At most so many slices."),
    costs_file: Path | None = typer.Option(
        None, "--costs", help="Write every number that the plan was made of (JSON) here, for `slicemq plan check`."
    ),
    input_shape: list[str] = INPUT_SHAPE,
) -> None:
    """Make a plan for a model: the slices, their nodes, what each costs, and how good the plan is."""
    if profile not in ("measure", "estimate"):
        raise UsageError(f"--profile: expected measure or estimate, got {profile!r}")
    pins = _pins(pin)
    shapes = parse_shapes(input_shape)
    from converters.needs import needs
    from converters.schema import open_model
    from coordinator.planner import make_plan
    from coordinator.planner.fleet import fleet_from_file
    from coordinator.planner.model import PlanOptions

    data = open_model(file)
    nodes = None if fleet is None else fleet_from_file(fleet)
    with out.progress() as progress:
        task = progress.add_task("reading the model", total=None, note="")
        graph = _named(file, data)
        if nodes is None:
            progress.update(task, description="reading the nodes' capacities")
            nodes = _live_fleet(net)
        progress.update(task, description=f"costs of {len(graph.steps)} operators ({profile})")
        try:
            graph, costs = _costs(data, graph, profile, shapes)
        except ModelError as error:
            raise type(error)(f"{file}: {error}") from error
        progress.update(task, description="planning")
        options = PlanOptions(pins=pins, exclude=frozenset(exclude), max_slices=max_slices)
        used: list[Costs] = []
        plan = make_plan(graph, costs, nodes, options=options, needs=needs(data, graph), record=used.append)
    if costs_file is not None:
        plan = replace(plan, costs=_write_costs(costs_file, graph, costs, used[-1], options))
    if output is not None:
        _write(output, plan)
    out.result(plan.to_plain(), lambda: describe(plan, graph, nodes, out, output))


def describe(plan: Plan, graph: Graph, fleet: Fleet, out: Output, written: Path | None = None) -> str:
    """The plan for people: a row for each slice, what limits it, and what it is compared with."""
    rows = [
        [
            item.id,
            "+".join(item.nodes),
            _ranges(item.operators),
            f"{item.compute_ms:.2f}",
            f"{item.down_ms:.2f}",
            f"{item.up_ms:.2f}",
            f"{item.bytes_in / 1e6:.3f}",
            f"{item.bytes_out / 1e6:.3f}",
            f"{item.memory_mb:.1f}",
            f"{100 * item.stage_ms / plan.period_ms:.0f}%" if plan.period_ms else "",
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
        lines.append(f"limited by {_bottleneck(plan)}")
    if plan.method == "exact-counts":
        lines.append(f"no contiguous split, one slice a node, is below {plan.lower_bound_ms:.2f} ms (exact)")
    else:
        lines.append(
            f"no contiguous split, one slice a node, is below {plan.lower_bound_ms:.2f} ms: "
            f"this plan is at most {100 * plan.gap:.1f} % slower than the best ({plan.method})"
        )
    for other in plan.alternatives:
        if other.period_ms is None:
            lines.append(f"one node alone: {other.reason}")
        else:
            gain = f"{other.period_ms / plan.period_ms:.2f} times the period" if plan.period_ms else "no difference"
            lines.append(f"one node alone ({other.nodes[0]}): period {other.period_ms:.2f} ms, {gain}")
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


def _bottleneck(plan: Plan) -> str:
    slowest = plan.slowest()
    if plan.period_ms > slowest.stage_ms * 1.0001 + 1e-3:
        return "the broker's rate"
    names = {"computing": slowest.compute_ms, "receiving": slowest.down_ms, "sending": slowest.up_ms}
    what = max(names, key=lambda name: names[name])
    return f"{what} on {'+'.join(slowest.nodes)} (slice {slowest.id})"


def _ranges(operators: tuple[int, ...]) -> str:
    found: list[tuple[int, int]] = []
    for operator in sorted(operators):
        if found and operator == found[-1][1] + 1:
            found[-1] = (found[-1][0], operator)
        else:
            found.append((operator, operator))
    texts = [f"{a}-{b}" if b > a else str(a) for a, b in found]
    return ",".join(texts) if len(texts) <= 3 else f"{texts[0]}..{texts[-1]} ({len(operators)})"


def _pins(given: list[str]) -> dict[str, str]:
    pins: dict[str, str] = {}
    for text in given:
        key, equals, node = text.partition("=")
        if not equals or not key or not node:
            raise UsageError(f"--pin {text}: expected SLICE=NODE such as s0=pi-1, or FIRST-LAST=NODE")
        if pins.setdefault(key, node) != node:
            raise UsageError(f"--pin {text}: {key} is pinned to {pins[key]} already")
    return pins


def _named(file: Path, data: Bytes) -> Graph:
    from converters.graph import read_graph

    try:
        return read_graph(data)
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error


def _costs(data: Bytes, graph: Graph, source: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Graph, Profile]:
    from converters.profile import estimate
    from converters.shapes import named_shapes, resolve_shapes
    from coordinator.cli.measured import measured
    from coordinator.cli.tools import load_interpreter

    wanted = named_shapes(graph, shapes)
    if source == "measure":
        graph = resolve_shapes(data, graph, load_interpreter, wanted)
        return graph, measured(data, graph)
    try:
        graph = resolve_shapes(data, graph, load_interpreter, wanted)
    except SliceMQError as error:
        logger.warning("the model did not run: tensors of unknown size count as nothing: %s", error)
    return graph, estimate(graph)


def _live_fleet(net: Network) -> Fleet:
    """The ready nodes, without the memory, computing time and link rates that the running pipelines take."""
    from coordinator.cli.measured import cache
    from coordinator.cli.tools import reference_speeds
    from coordinator.planner.fleet import fleet_from_capacities
    from coordinator.planner.sharing import shared, together, usage_of_plan
    from slicemq.messages import Assignment, Capacity, NodeState, PipelineDocument, PlanDocument, decode
    from slicemq.session import Session

    session = Session(net.options, f"cli-{secrets.token_hex(4)}")
    try:
        session.start()
        session.wait_up(_CONNECT_SECONDS)
        leaves = (net.topics.node("+", leaf) for leaf in ("state", "capacity", "assignment"))
        documents = session.snapshot(*leaves, net.topics.pipeline("+"), net.topics.plan("+"))
    finally:
        session.stop()
    states: dict[str, NodeState] = {}
    capacities: dict[str, Capacity] = {}
    assignments: dict[str, Assignment] = {}
    running: set[str] = set()
    plans: dict[str, PlanDocument] = {}
    for topic, payload in sorted(documents.items()):
        node, leaf = (*net.topics.parts(topic)[1:], "pipeline")[:2]
        try:
            if leaf == "pipeline":
                document = decode(PipelineDocument, payload, topic)
                running |= {document.name} if document.state == "running" else set()
            elif leaf == "plan":
                plan = decode(PlanDocument, payload, topic)
                plans[plan.name] = plan
            elif leaf == "state":
                states[node] = decode(NodeState, payload, topic)
            elif leaf == "capacity":
                capacities[node] = decode(Capacity, payload, topic)
            else:
                assignments[node] = decode(Assignment, payload, topic)
        except ProtocolError as error:
            logger.warning("%s", error)
    ready = [
        _free(capacity, assignments.get(node))
        for node, capacity in sorted(capacities.items())
        if node in states and states[node].state == "ready" and states[node].epoch == capacity.epoch
    ]
    if not ready:
        raise InsufficientCapacityError(
            f"no node is ready in cluster {net.cluster} at {net.options.describe()}: start some with "
            "'slicemq node run', or give --fleet"
        )
    usage = together(usage_of_plan(plan.plan) for name, plan in plans.items() if name in running)
    return shared(fleet_from_capacities(ready, reference_speeds(cache())), usage)


def _free(capacity: Capacity, assignment: Any) -> Capacity:
    taken = sum(item.memory + capacity.worker_memory for item in assignment.slices) if assignment else 0
    return replace(capacity, memory=max(0, capacity.memory - taken))


def _write(output: Path, plan: Plan) -> None:
    try:
        output.write_text(plan.to_json(), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{output}: {error.strerror}") from error


def _write_costs(target: Path, graph: Graph, profile: Profile, costs: Costs, options: PlanOptions) -> CostsFile:
    from coordinator.planner.books import books, text_of
    from coordinator.planner.plan import CostsFile

    data = text_of(books(graph, profile, costs, options)).encode()
    try:
        target.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from error
    return CostsFile(target.name, hashlib.sha256(data).hexdigest())
