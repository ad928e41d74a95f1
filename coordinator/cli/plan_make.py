"""`slicemq plan make FILE`: which slices on which nodes, without deploying anything."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coordinator.cli import plan_wishes as wish
from coordinator.cli.common import Network, Output, model_verb
from coordinator.cli.live_fleet import live_fleet
from coordinator.cli.model_files import INPUT_SHAPE, parse_shapes
from coordinator.cli.plan_text import describe
from slicemq.errors import ModelError, SliceMQError, StoreError, UsageError

if TYPE_CHECKING:
    from converters.graph import Graph
    from converters.profile import Profile
    from converters.schema import Bytes
    from coordinator.planner.model import Planner, PlanOptions
    from coordinator.planner.plan import CostsFile, Plan
    from coordinator.planner.problem import Costs
    from coordinator.planner.tables.codec_costs import Ratios

logger = logging.getLogger("slicemq.plan")


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
    objective: str = wish.OBJECTIVE,
    min_rate: float | None = wish.MIN_RATE,
    max_latency: float | None = wish.MAX_LATENCY,
    max_nodes: int | None = wish.MAX_NODES,
    max_energy: float | None = wish.MAX_ENERGY,
    error_budget: float = wish.ERROR_BUDGET,
    codec: list[str] = wish.CODEC,
    shape: list[str] = wish.SHAPE,
    require: list[str] = wish.REQUIRE,
    headroom: float = wish.HEADROOM,
    data_brokers: str = wish.DATA_BROKERS,
    broker_rate: float | None = wish.BROKER_RATE,
    planner: str = typer.Option(
        "slicemq",
        "--planner",
        help="slicemq, or a method of others (explanation/placement-papers.md); these make pipelines "
        "unless --shape says otherwise.",
    ),
    search: float = typer.Option(
        0.0, "--search", min=0.0, max=3600.0, help="Seconds more to search, for plans that nobody waits for."
    ),
    costs_file: Path | None = typer.Option(
        None, "--costs", help="Write every number that the plan was made of (JSON) here, for `slicemq plan check`."
    ),
    calibration: Path | None = wish.CALIBRATION,
    input_shape: list[str] = INPUT_SHAPE,
) -> None:
    """Make a plan for a model: the slices, their nodes, what each costs, and how good the plan is."""
    if profile not in ("measure", "estimate"):
        raise UsageError(f"--profile: expected measure or estimate, got {profile!r}")
    wishes = wish.wishes(
        objective=objective,
        min_rate=min_rate,
        max_latency=max_latency,
        max_nodes=max_nodes,
        max_energy=max_energy,
        error_budget=error_budget,
        codec=codec,
        shape=shape,
        require=require,
        headroom=headroom,
        data_brokers=data_brokers,
        broker_rate=broker_rate,
    )
    pins = wish.pairs(pin, "--pin", "SLICE=NODE such as s0=pi-1, or FIRST-LAST=NODE")
    method = _method(planner)
    if planner != "slicemq":
        wishes.setdefault("shape", ["pipeline"])  # what the others make; else our copies would win in their name
    if output is not None and costs_file is not None and output.resolve() == costs_file.resolve():
        raise UsageError(f"--costs {costs_file}: expected another file than --output")
    shapes = parse_shapes(input_shape)
    from converters.needs import needs
    from converters.schema import open_model
    from coordinator.cli.codec_tools import codec_tools, unused, warn_of_noise
    from coordinator.error_budget import kept_budget
    from coordinator.planner import make_plan
    from coordinator.planner.fleet import fleet_from_file
    from coordinator.planner.wishes import options_from_plain

    options = options_from_plain({**wishes, "pins": pins, "exclude": exclude, "max_slices": max_slices})
    unused(options.codecs, calibration)
    data = open_model(file)
    nodes = None if fleet is None else fleet_from_file(fleet)
    with out.progress() as progress:
        task = progress.add_task("reading the model", total=None, note="")
        graph = _named(file, data)
        if nodes is None:
            progress.update(task, description="reading the nodes' capacities")
            nodes = live_fleet(net)
        if options.broker_rate is not None:
            nodes = replace(nodes, broker_rate=options.broker_rate)
        progress.update(task, description=f"costs of {len(graph.steps)} operators ({profile})")
        try:
            graph, costs = _costs(data, graph, profile, shapes)
        except ModelError as error:
            raise type(error)(f"{file}: {error}") from error
        tools = None
        if options.codecs != ("raw",):
            progress.update(task, description=f"what {', '.join(options.codecs[1:])} make of the tensors")
            tools = codec_tools(data, graph, options.codecs, calibration)
        progress.update(task, description="planning")
        used: list[Costs] = []
        needed, given, profiled = needs(data, graph), nodes, costs

        def make(chosen: PlanOptions) -> Plan:
            return make_plan(
                graph,
                profiled,
                given,
                options=chosen,
                needs=needed,
                record=used.append,
                planner=method,
                seconds=search,
                measures=None if tools is None else tools.measures,
            )

        plan = make(options) if tools is None else kept_budget(make, options, tools.error, tools.samples)
    warn_of_noise(plan.to_plain()["error"])
    if costs_file is not None:
        ratios = None if tools is None else tools.measures.ratios
        plan = replace(plan, costs=_write_costs(costs_file, graph, costs, used[-1], options, ratios))
    if output is not None:
        _write(output, plan)
    out.result(plan.to_plain(), lambda: describe(plan, graph, nodes, out, output))


def _method(name: str) -> Planner:
    """The planner of a name. Raises UsageError for an unknown one."""
    from coordinator.planner.baselines import BASELINES
    from coordinator.planner.methods.exact import solve

    if name == "slicemq":
        return solve
    if name not in BASELINES:
        raise UsageError(f"--planner: expected slicemq, {', '.join(BASELINES)}, got {name!r:.80}")
    return BASELINES[name]


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


def _write(output: Path, plan: Plan) -> None:
    try:
        output.write_text(plan.to_json(), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{output}: {error.strerror}") from error


def _write_costs(
    target: Path,
    graph: Graph,
    profile: Profile,
    costs: Costs,
    options: PlanOptions,
    ratios: Ratios | None,
) -> CostsFile:
    from coordinator.planner.books.write import books, text_of
    from coordinator.planner.plan import CostsFile

    data = text_of(books(graph, profile, costs, options, ratios)).encode()
    try:
        target.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from error
    return CostsFile(target.name, hashlib.sha256(data).hexdigest())
