"""One planning job: model file and capacities in, stored slices and a blueprint out. Runs in a child process.

Reading, measuring and cutting a model take the interpreter's lock for long and load a runtime that a hostile model
may crash; neither may touch the coordinator. The child keeps what it learnt of a model, so that planning
again after a loss takes milliseconds.
"""

from __future__ import annotations

import importlib
import logging
import mmap
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from converters.classes import class_of
from converters.codec_errors import CodecMeasures
from converters.graph import Graph, read_graph
from converters.memory import slice_memory
from converters.needs import needs
from converters.profile import Profile, estimate
from converters.shapes import named_shapes, resolve_shapes
from converters.slicing import iter_slices
from coordinator.artifacts import ArtifactStore
from coordinator.candidates import STEPS, chosen_nodes, limited
from coordinator.codec_notes import calibration_frames, error_of_plan, measures_of
from coordinator.error_budget import kept_budget, lossless
from coordinator.golden_check import ROUNDED, given_golden, own_golden, tolerance_of
from coordinator.intents import Blueprint, GoldenCheck, Intent
from coordinator.known import Known, informed
from coordinator.planner import make_plan
from coordinator.planner.fleet import fleet_from_capacities
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions
from coordinator.planner.plan import Plan, Samples
from coordinator.planner.tables.codec_costs import candidates
from coordinator.planner.tables.operators import Needs, lacking
from coordinator.planner.tables.states import down_sets
from coordinator.planner.wishes import options_from_plain
from coordinator.profiles import profile_of
from coordinator.revisions import blueprint
from slicemq.codecs import is_lossless
from slicemq.errors import (
    InputError,
    InsufficientCapacityError,
    ModelError,
    PlanError,
    StoreError,
    UnsupportedOperatorError,
)
from slicemq.messages import Capacity

logger = logging.getLogger("slicemq.coordinator.planning")

REPLACEMENT_WITHIN = 0.05
"""A plan that replaces a lost one may be worse than the best by this share if fewer bytes are shipped for it."""

Computing = dict[str, dict[str, float]]
"""Slice -> node -> seconds."""
ONE_TURN = ("one-node", "pipeline")
"""The shapes of plans in which every frame goes the same way."""
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Sizes of inputs by name."""


@dataclass(frozen=True)
class Tools:
    """Functions of other rooms, as `module:function`, given by the command line that composes the program.

    `load` opens an interpreter, `calibrate` measures this machine's speed per operator class, `runtime` names the
    runtime that `load` uses.
    """

    load: str
    calibrate: str
    runtime: str

    def function(self, reference: str) -> Callable[..., Any]:
        """The function that a reference names."""
        module, _, name = reference.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


@dataclass(frozen=True)
class PlanningJob:
    """All that a child needs. `folder` holds `artifacts/` and `profiles/`.

    `asked`: an operator waits for the answer, so a pin to a node that is not here is an error; when the plan
    replaces a lost one, such pins are left out. `known` is what was learnt of the nodes.
    """

    intent: Intent
    nodes: tuple[Capacity, ...]
    avoid: frozenset[str]
    folder: Path
    tools: Tools
    asked: bool = True
    known: Known = field(default_factory=Known)


def run(job: PlanningJob) -> Blueprint:
    """Plan, cut, store. Raises ModelError, PlanError (InsufficientCapacityError) or StoreError."""
    store = ArtifactStore(job.folder / "artifacts")
    path = store.path(job.intent.model.sha256)
    graph = model_graph(str(path), job.tools, shapes_of(job.intent))
    if graph.sha256 != job.intent.model.sha256:
        raise ModelError(f"{path}: its SHA-256 is {graph.sha256}")
    calibration = _calibration(job, store, graph)
    plan, computing = _plan(job, graph, str(path), calibration)
    artifacts, takes, gives = [], [], []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for piece in (piece for lane in plan.lane_groups() for piece in iter_slices(data, graph, lane)):
            artifacts.append(store.put(piece.data))
            takes.append(piece.inputs)
            gives.append(piece.outputs)
    brokers = {capacity.node: capacity.broker for capacity in job.nodes}
    made = blueprint(job.intent.name, graph, plan, takes, gives, artifacts, brokers)
    return replace(made, computing=computing, golden=_golden(job, store, graph, path, plan, calibration))


def _golden(
    job: PlanningJob, store: ArtifactStore, graph: Graph, path: Path, plan: Plan, calibration: str | None
) -> GoldenCheck | None:
    """What probe frames are compared with. Raises InputError for an operator's file that does not fit the model."""
    load = job.tools.function(job.tools.load)
    used = {node for item in plan.slices for node in item.nodes}
    capacities = [capacity for capacity in job.nodes if capacity.node in used]
    budget = plan.error.budget if plan.error is not None else 0.0
    runtime = job.tools.function(job.tools.runtime)()
    tolerance = tolerance_of(capacities, runtime, platform.machine(), graph)
    if plan.error is None and not all(is_lossless(bundle.codec) for bundle in plan.bundles):
        # A plan file's own codecs: nobody has said how far results may be off.
        tolerance = max(tolerance, ROUNDED)
    if job.intent.golden is not None and (job.asked or store.path(job.intent.golden.sha256).is_file()):
        file, frames = given_golden(store, job.intent.golden, path, graph, load, tolerance)
        return GoldenCheck(file, frames, budget)
    typical = [] if calibration is None else calibration_frames(calibration, graph)
    own = own_golden(store, job.folder / "profiles", path, graph, load, runtime, typical)
    return None if own is None else GoldenCheck(own, 1, max(tolerance, budget))


def _calibration(job: PlanningJob, store: ArtifactStore, graph: Graph) -> str | None:
    """Where the intent's calibration set is (None: it has none, or none that can be used). It was read once.

    Raises InputError and StoreError when an operator waits for the answer; a lost plan is replaced without it.
    """
    calibration = job.intent.calibration
    if calibration is None:
        return None
    path = str(store.path(calibration.sha256))
    try:
        calibration_frames(path, graph)
    except (InputError, StoreError) as error:
        if job.asked:
            raise
        logger.warning("the calibration set cannot be used, planning without lossy codecs: %s", error)
        return None
    return path


def _plan(job: PlanningJob, graph: Graph, path: str, calibration: str | None) -> tuple[Plan, Computing]:
    """The plan, and what its slices' calls are predicted to take by the profile and the nodes' speeds alone."""
    options = _for_present(plan_options(job.intent.options), job)
    if job.intent.calibration is not None and calibration is None:
        options = lossless(options)
    if job.intent.plan is not None:
        plan = Plan.from_plain(job.intent.plan, graph=graph)
        present = {capacity.node for capacity in job.nodes}
        if all(node in present for item in plan.slices for node in item.nodes):
            _check_turns(plan, job.nodes)
            if not job.asked:
                plan = _with_present_brokers(plan, job.nodes)
            _check_brokers(plan, job.nodes)
            _check_memory(plan, job.nodes)
            _check_operators(plan, graph, model_needs(path, job.tools, shapes_of(job.intent)), job.nodes)
            return plan, {}
        missing = sorted({node for item in plan.slices for node in item.nodes} - present)
        logger.warning("the operator's plan names nodes that are not here (%s): making another", ", ".join(missing))
    if not job.nodes:
        raise InsufficientCapacityError("no node may be used: none is ready that is not drained")
    source = str(job.intent.options.get("profile", "measure"))
    profile = model_profile(path, source, str(job.folder / "profiles"), job.tools, shapes_of(job.intent))
    reference = reference_speeds(job.tools, job.folder)

    # What an operator asks for is placed as well as possible; what replaces a lost plan moves little.
    known = replace(job.known, held={}) if job.asked else job.known

    measures = None
    if options.codecs != ("raw",):
        kept = str(job.folder / "profiles")
        measures = model_measures(path, options.codecs, kept, job.tools, shapes_of(job.intent), calibration)

    def attempt(nodes: list[Capacity]) -> tuple[Plan, Computing]:
        fleet = informed(fleet_from_capacities(nodes, reference, options.broker_rate), known)

        def make(wanted: PlanOptions) -> Plan:
            return make_plan(
                graph,
                profile,
                fleet,
                memory=slice_memory,
                options=wanted,
                needs=model_needs(path, job.tools, shapes_of(job.intent)),
                measures=measures,
                brief=not job.asked,
            )

        known_by_all = _with_brokers_known(_with_turns_known(options, nodes), nodes)
        samples: Samples = "noise" if calibration is None else "calibration"
        plan = kept_budget(make, known_by_all, lambda plan: _error(job, graph, path, plan, calibration), samples)
        # An estimate is no measurement that another could correct.
        return plan, computing_of(plan, graph, profile, fleet) if profile.measured else {}

    def among(nodes: list[Capacity]) -> tuple[Plan, Computing]:
        """Plan on some of very many nodes, and on more of them only when those do not suffice."""
        able = [node for node in nodes if all(node.labels.get(k) == v for k, v in options.require.items())]
        named = {*options.pins.values(), *options.exclude, *job.known.held}
        for most in STEPS:
            if len(able) <= most:
                break
            try:
                plan, computing = attempt(chosen_nodes(able, most, named, job.known.usage))
                return replace(plan, reason=limited(plan.reason, most, len(able))), computing
            except InsufficientCapacityError:
                logger.info("%s: %d of %d nodes do not suffice", job.intent.name, most, len(able))
        return attempt(nodes)

    # An operator's pin stands above what failed lately.
    shunned = job.avoid - set(options.pins.values())
    preferred = [capacity for capacity in job.nodes if capacity.node not in shunned]
    if preferred and len(preferred) < len(job.nodes):
        try:
            return among(preferred)
        except InsufficientCapacityError:
            logger.info("not enough without the nodes that failed lately: planning with them")
    return among(list(job.nodes))


def _error(job: PlanningJob, graph: Graph, path: str, plan: Plan, calibration: str | None) -> float:
    """How much a plan with lossy codecs changes the results, by running its slices."""
    frames = None if calibration is None else calibration_frames(calibration, graph)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return error_of_plan(data, graph, job.tools.function(job.tools.load), plan, frames)


def computing_of(plan: Plan, graph: Graph, profile: Profile, fleet: Fleet) -> Computing:
    """Predicted seconds of one call of the interpreter for each slice on each of its nodes, uncorrected."""
    specs = {spec.id: spec for spec in fleet.nodes}

    def seconds(operators: Iterable[int], spec: NodeSpec) -> float:
        own = (profile.seconds.get(k, 0.0) / spec.speed(class_of(graph, graph.operators[k])) for k in operators)
        return profile.overhead / spec.mean_speed + Overheads().computing * sum(own)

    return {
        item.id: {node: round(seconds(item.operators, specs[node]), 9) for node in item.nodes}
        for item in plan.slices
    }


def _for_present(options: PlanOptions, job: PlanningJob) -> PlanOptions:
    """The options without nodes that are not here: an absent one is excluded anyway, a lost one holds no slice."""
    present = {capacity.node for capacity in job.nodes}
    pins = {key: node for key, node in options.pins.items() if job.asked or node in present}
    for key in options.pins.keys() - pins.keys():
        logger.warning("pin %s=%s: the node is not here, the pin is left out", key, options.pins[key])
    for node in sorted(options.exclude - present) if job.asked else ():
        logger.warning("exclude %s: no node of that name is here", node)
    goal = options.goal
    if not job.asked and job.known.held:
        goal = replace(goal, within=max(goal.within, REPLACEMENT_WITHIN))
    return replace(options, pins=pins, exclude=options.exclude & present, goal=goal)


def _with_turns_known(options: PlanOptions, nodes: list[Capacity]) -> PlanOptions:
    """The options, with shapes of one turn only while a node that may be used does not know turns."""
    old = sorted(one.node for one in nodes if not one.knows_turns and one.node not in options.exclude)
    if not old:
        return options
    allowed = tuple(shape for shape in ONE_TURN if options.shapes is None or shape in options.shapes)
    if not allowed:
        raise PlanError(
            f"field shape: {', '.join(options.shapes or ())}: these need turns, and node {old[0]} speaks a version "
            "of the protocol below 1.2"
        )
    return replace(options, shapes=allowed)


def _with_brokers_known(options: PlanOptions, nodes: list[Capacity]) -> PlanOptions:
    """The options, without data brokers while a node that may be used does not know them."""
    if all(one.knows_data_brokers for one in nodes if one.node not in options.exclude):
        return options
    return replace(options, data_brokers="never")


def shapes_of(intent: Intent) -> Shapes:
    """The sizes that the operator chose for inputs, in a form that serves as a key. Raises PlanError."""
    body = intent.options.get("shapes", {})
    if not isinstance(body, dict):
        raise PlanError("field shapes: expected an object, input -> list of sizes")
    for name, sizes in body.items():
        whole = isinstance(sizes, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
        if not whole or not all(0 < n < 1 << 31 for n in sizes):
            raise PlanError(f"field shapes: {name}: expected a list of whole numbers above 0, got {sizes!r:.80}")
    return tuple((name, tuple(sizes)) for name, sizes in sorted(body.items()))


def plan_options(body: Mapping[str, Any]) -> PlanOptions:
    """The planner's options from a request's JSON. Raises PlanError that names the field."""
    if body.get("profile", "measure") not in ("measure", "estimate"):
        raise PlanError("field profile: expected measure or estimate")
    return options_from_plain(body)


def _check_turns(plan: Plan, nodes: tuple[Capacity, ...]) -> None:
    known = {capacity.node: capacity for capacity in nodes}
    for node in sorted({node for item in plan.slices for node in item.nodes}):
        if plan.turns > 1 and not known[node].knows_turns:
            raise PlanError(
                f"the plan has {plan.turns} turns, and node {node} speaks version {known[node].protocol} of the "
                "protocol: turns need 1.2"
            )


def _with_present_brokers(plan: Plan, nodes: tuple[Capacity, ...]) -> Plan:
    """The plan with the bundles of data brokers that do not answer on the main broker."""
    there = {"", *(capacity.node for capacity in nodes if capacity.broker)}
    lost = sorted({bundle.broker for bundle in plan.bundles} - there)
    if not lost:
        return plan
    logger.warning("the operator's plan names data brokers that do not answer (of %s)", ", ".join(lost))
    bundles = tuple(b if b.broker in there else replace(b, broker="") for b in plan.bundles)
    return replace(plan, bundles=bundles)


def _check_brokers(plan: Plan, nodes: tuple[Capacity, ...]) -> None:
    known = {capacity.node: capacity for capacity in nodes}
    carriers = {bundle.broker: bundle.id for bundle in plan.bundles if bundle.broker}
    for node, bundle in sorted(carriers.items()):
        if node not in known or not known[node].broker:
            raise PlanError(
                f"the plan's bundle {bundle} is on the data broker of node {node}, which has none that answers "
                "(its field data_broker, or leave `broker` out of the bundle)"
            )
    for node in sorted({node for item in plan.slices for node in item.nodes}) if carriers else ():
        if not known[node].knows_data_brokers:
            raise PlanError(
                f"the plan has bundles on data brokers, and node {node} speaks version {known[node].protocol} of "
                "the protocol: data brokers need 1.3"
            )


def _check_memory(plan: Plan, nodes: tuple[Capacity, ...]) -> None:
    free = {capacity.node: capacity.memory for capacity in nodes}
    for item in plan.slices:
        for node in item.nodes:
            free[node] -= int(item.memory_mb * 1e6)
            if free[node] < 0:
                raise InsufficientCapacityError(
                    f"the plan's slice {item.id} needs {item.memory_mb:.1f} MB on node {node}, "
                    f"which has {(free[node] + item.memory_mb * 1e6) / 1e6:.1f} MB free"
                )


def _check_operators(plan: Plan, graph: Graph, needed: Needs, nodes: tuple[Capacity, ...]) -> None:
    known = {capacity.node: capacity for capacity in nodes}
    ends = {lane.stop - 1 for lane in plan.lanes()}
    for number, item in enumerate(plan.slices):
        handed_on = graph.outputs if number in ends else ()
        operators = graph.closure(item.operators, handed_on)
        for node in (known[name] for name in item.nodes):
            for index in operators:
                for name, version in lacking(node.operators, needed[index]).items():
                    highest = node.operators.get(name, 0)
                    raise InsufficientCapacityError(
                        f"the plan's slice {item.id} needs {name} in version {version} (operator {index}); node "
                        f"{node.node} has {node.runtime.name} {node.runtime.version}, which "
                        + (f"takes up to version {highest}" if highest else "lacks it")
                    )


@lru_cache(maxsize=4)
def model_graph(path: str, tools: Tools, shapes: Shapes = ()) -> Graph:
    """The graph of a stored model, with the shapes that it really has when it runs.

    Artifacts never change, so a path is enough as the key.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graph = read_graph(data)
            wanted = named_shapes(graph, dict(shapes))
            return resolve_shapes(data, graph, tools.function(tools.load), wanted)
    except UnsupportedOperatorError as error:
        raise UnsupportedOperatorError(
            f"the coordinator runs a model once before it plans it, in its own runtime: {error}"
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: {error}") from error


@lru_cache(maxsize=4)
def model_needs(path: str, tools: Tools, shapes: Shapes = ()) -> Needs:
    """What each operator of a stored model asks of a runtime, as slices are written."""
    graph = model_graph(path, tools, shapes)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return needs(data, graph)


@lru_cache(maxsize=8)
def model_profile(path: str, source: str, folder: str, tools: Tools, shapes: Shapes = ()) -> Profile:
    """The cost of each operator: estimated, or measured once on this machine and kept in `folder`."""
    graph = model_graph(path, tools, shapes)
    if source == "estimate":
        return estimate(graph)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return profile_of(data, graph, tools.function(tools.load), tools.function(tools.runtime)(), Path(folder))


@lru_cache(maxsize=4)
def model_measures(
    path: str,
    codecs: tuple[str, ...],
    folder: str,
    tools: Tools,
    shapes: Shapes = (),
    calibration: str | None = None,
) -> CodecMeasures:
    """What codecs do to a stored model, measured once and kept in `folder`.

    `calibration` is the file of the frames that they are measured on (None: seeded noise).
    """
    graph = model_graph(path, tools, shapes)
    load, runtime = tools.function(tools.load), tools.function(tools.runtime)()
    sets = candidates(graph, down_sets(graph))
    frames = None if calibration is None else calibration_frames(calibration, graph)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return measures_of(data, graph, load, runtime, Path(folder), sets, codecs, samples=frames)


@lru_cache(maxsize=1)
def reference_speeds(tools: Tools, folder: Path) -> dict[str, float]:
    """This machine's runs per second of each class's calibration model; kept in `folder`."""
    speeds: dict[str, float] = tools.function(tools.calibrate)(folder)
    return speeds
