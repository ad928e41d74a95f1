"""The plan and its file, a JSON document that people may edit (docs/reference/plan-file.md)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import dacite

from coordinator.planner.answer import Bound
from coordinator.planner.lanes import LaneGroups, PlanLane, lanes_of, wirings
from coordinator.planner.plan_checks import CLIENT, check_bundles, check_nodes, check_operators, check_shape
from coordinator.planner.tables.segments import FRAME_BYTES, wire_bytes
from slicemq.errors import CutError, PlanError

if TYPE_CHECKING:
    from converters.graph import Graph

FORMAT = 1
FAMILY = "contiguous-one-per-node"
"""The plans that a bound speaks of: contiguous runs of operators, at most one on each node."""
MAX_FILE_BYTES = 4 << 20
Samples = Literal["calibration", "noise"]
"""What codecs were measured on."""


@dataclass(frozen=True)
class PlannedSlice:
    """One slice: its node, its operators (places in the file) and one frame's costs.

    `memory_mb` is memory beyond an idle worker, MB is 10^6 bytes; bytes are bytes on the wire. `turns` has for each
    of `nodes` the turns that it serves; empty: one node, every turn. With several nodes the times are those of a
    frame on the slowest of them, and `busy_ms` is how long the busiest of them works in a period (0: not given).
    """

    id: str
    nodes: tuple[str, ...]
    operators: tuple[int, ...]
    memory_mb: float
    compute_ms: float
    bytes_in: int
    bytes_out: int
    down_ms: float = 0.0
    up_ms: float = 0.0
    turns: tuple[tuple[int, ...], ...] = ()
    busy_ms: float = 0.0

    @property
    def stage_ms(self) -> float:
        """What the slice adds to the period: receiving, computing and sending overlap."""
        return max(self.compute_ms, self.down_ms, self.up_ms)


@dataclass(frozen=True)
class PlannedBundle:
    """One message per frame: `source` and `targets` are slice ids or `client` (`from` and `to` in the file).

    `broker` is the node whose data broker carries it (empty: the main broker), always that of its only target.
    """

    id: str
    source: str
    targets: tuple[str, ...]
    tensors: tuple[int, ...]
    bytes: int
    codec: str = "raw"
    broker: str = ""


@dataclass(frozen=True)
class Alternative:
    """Another family of plans, for comparison; without `period_ms` it has no plan, and `reason` says why."""

    family: str
    nodes: tuple[str, ...]
    period_ms: float | None
    latency_ms: float | None
    reason: str = ""


@dataclass(frozen=True)
class ProfileSource:
    """Where the operators' costs come from."""

    runtime: str
    measured: bool


@dataclass(frozen=True)
class CostsFile:
    """The open books of a plan: the file's name beside the plan file, and its SHA-256 (hex)."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Inexact:
    """How far lossy codecs may change the results, as a share of an output's largest magnitude.

    `estimated` is the sum of what each cut errs by itself, `measured` what the slices err one after the other with
    their codecs (None: not measured). `samples` is what both were measured on: the user's typical inputs, or seeded
    noise (None: not known).
    """

    budget: float
    estimated: float
    measured: float | None = None
    samples: Samples | None = None


@dataclass(frozen=True)
class Plan:
    """Which slices run where, at which cost, and how good that is known to be.

    No plan of `family` has a period below `lower_bound_ms`; `gap` is period / bound - 1. `window` is the
    fewest frames on their way that reach 95 % of the peak rate, and one more for what varies. A frame of
    sequence number q takes turn q mod `turns`, and is computed by the slices and nodes that serve it. `certificate`
    are the proofs of bounds, the highest last; `costs` names the file of the numbers that the plan was made of.
    `error` is what lossy codecs do to the results (None: nothing is lost).
    """

    model: str
    objective: str
    period_ms: float
    latency_ms: float
    lower_bound_ms: float
    gap: float
    method: str
    family: str
    solve_seconds: float
    window: int
    profile: ProfileSource
    slices: tuple[PlannedSlice, ...]
    bundles: tuple[PlannedBundle, ...]
    alternatives: tuple[Alternative, ...] = ()
    turns: int = 1
    reason: str = ""
    energy_j: float = 0.0
    certificate: tuple[Bound, ...] = ()
    costs: CostsFile | None = None
    error: Inexact | None = None
    format: int = FORMAT

    def digest(self) -> str:
        """SHA-256 (hex) of what a revision consists of: model, operators, nodes, bundles and codecs.

        Costs and bounds do not count, so that a plan made anew with the same result is the same revision.
        """
        content: dict[str, object] = {
            "model": self.model,
            "slices": [[item.id, list(item.nodes), sorted(item.operators)] for item in self.slices],
            "bundles": [[b.id, b.source, list(b.targets), list(b.tensors), b.codec] for b in self.bundles],
        }
        carried = [[bundle.id, bundle.broker] for bundle in self.bundles if bundle.broker]
        if carried:
            content["brokers"] = carried
        if self.turns > 1:
            content["turns"] = [self.turns, *([list(turns) for turns in item.turns] for item in self.slices)]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def slowest(self) -> PlannedSlice:
        """The slice whose stage is the slowest."""
        return max(self.slices, key=lambda item: item.stage_ms)

    def lanes(self) -> tuple[PlanLane, ...]:
        """The complete pipelines side by side, and the turns of each. Raises PlanError when there are none."""
        return lanes_of(self.slices, self.turns)

    def lane_groups(self) -> list[list[list[int]]]:
        """The operators of the slices, lane by lane."""
        return [[list(item.operators) for item in self.slices[lane.first : lane.stop]] for lane in self.lanes()]

    def to_plain(self) -> dict[str, Any]:
        """The plan file's content as dicts and lists."""
        body: dict[str, Any] = {"format": self.format, **asdict(self)}
        for bundle in body["bundles"]:
            bundle["from"], bundle["to"] = bundle.pop("source"), bundle.pop("targets")
        plain: dict[str, Any] = json.loads(json.dumps(body))
        return plain

    def to_json(self) -> str:
        """The plan file's text."""
        return json.dumps(self.to_plain(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_plain(cls, body: Any, *, graph: Graph | None = None, nodes: Collection[str] | None = None) -> Plan:
        """Read a plan file's content; with `graph` and `nodes` it is also checked against them.

        Raises PlanError that names the field and what was expected.
        """
        plan = _read(body, bundles_needed=graph is None)
        check_shape(plan)
        if nodes is not None:
            check_nodes(plan, nodes)
        if graph is not None:
            plan = _against_model(plan, graph, given="bundles" in body)
        return plan

    @classmethod
    def from_json(
        cls, text: str | bytes, *, graph: Graph | None = None, nodes: Collection[str] | None = None
    ) -> Plan:
        """The same from the file's text."""
        if len(text) > MAX_FILE_BYTES:
            raise PlanError(f"plan: {len(text)} bytes, expected at most {MAX_FILE_BYTES}")
        try:
            body = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"plan: not JSON: {error}") from error
        return cls.from_plain(body, graph=graph, nodes=nodes)


def bundles_of(graph: Graph, groups: list[list[int]]) -> tuple[PlannedBundle, ...]:
    """The messages of one frame when the slices have these operators: bundles, then the parts of the result."""
    return lane_bundles(graph, [groups])


def lane_bundles(graph: Graph, lanes: LaneGroups) -> tuple[PlannedBundle, ...]:
    """The messages of all lanes of a plan: `b0`, `b1` ... of lane after lane, then the parts of their results.

    `lanes` are the operators of the slices, lane by lane; the slices are `s0`, `s1` ... without a break. Raises
    CutError for groups that are not a sound partition of the model.
    """

    def size(tensors: tuple[int, ...]) -> int:
        return FRAME_BYTES + sum(wire_bytes(graph.tensors[tensor]) for tensor in tensors)

    wired = wirings(graph, lanes)
    between = [
        PlannedBundle(
            edge.id,
            CLIENT if edge.source is None else f"s{edge.source}",
            tuple(f"s{target}" for target in edge.targets),
            edge.tensors,
            size(edge.tensors),
        )
        for lane in wired
        for edge in lane.edges
    ]
    parts = [part for lane in wired for part in lane.results]
    results = [
        PlannedBundle(f"r{row}", f"s{number}", (CLIENT,), tensors, size(tensors))
        for row, (number, tensors) in enumerate(parts)
    ]
    return (*between, *results)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("expected a number, got a boolean")
    if isinstance(value, int) and abs(value) < 1 << 53:
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("expected a whole number, got a boolean")
    return value


_DACITE = dacite.Config(cast=[tuple], type_hooks={float: _number, int: _whole}, check_types=True, strict=True)


def _read(body: Any, bundles_needed: bool) -> Plan:
    if not isinstance(body, dict):
        raise PlanError(f"plan: expected an object, got {type(body).__name__}")
    if body.get("format") != FORMAT or isinstance(body.get("format"), bool):
        raise PlanError(f"plan: field format: expected {FORMAT}, got {body.get('format')!r}")
    body = dict(body)
    if not bundles_needed:
        body.setdefault("bundles", [])
    if not isinstance(body.get("bundles"), list):
        raise PlanError("plan: field bundles: expected a list")
    body["bundles"] = [_bundle(row, number) for number, row in enumerate(body["bundles"])]
    for name, kind in (("slices", PlannedSlice), ("alternatives", Alternative)):
        rows = body.get(name, [])
        if not isinstance(rows, list):
            raise PlanError(f"plan: field {name}: expected a list")
        body[name] = [_row(kind, row, f"{name}[{number}]") for number, row in enumerate(rows)]
    plan: Plan = _row(Plan, body, "")
    return plan


def _bundle(row: Any, number: int) -> PlannedBundle:
    where = f"bundles[{number}]"
    if not isinstance(row, dict):
        raise PlanError(f"plan: field {where}: expected an object")
    row = dict(row)
    for name, own in (("from", "source"), ("to", "targets")):
        if name not in row or own in row:
            raise PlanError(f"plan: field {where}.{name}: missing")
        row[own] = row.pop(name)
    bundle: PlannedBundle = _row(PlannedBundle, row, where)
    return bundle


def _row(kind: Any, row: Any, where: str) -> Any:
    if not isinstance(row, dict):
        raise PlanError(f"plan: field {where}: expected an object")
    try:
        return dacite.from_dict(kind, row, _DACITE)
    except dacite.DaciteFieldError as error:
        field = ".".join(part for part in (where, error.field_path or "") if part)
        raise PlanError(f"plan: field {field}: {error}") from error
    except (dacite.DaciteError, ValueError, TypeError, RecursionError) as error:
        raise PlanError(f"plan: {f'field {where}: ' if where else ''}{error}") from error


def _against_model(plan: Plan, graph: Graph, given: bool) -> Plan:
    check_operators(plan, graph)
    try:
        expected = lane_bundles(graph, plan.lane_groups())
    except CutError as error:
        raise PlanError(f"plan: field slices: {error}") from error
    if not given:
        return replace(plan, bundles=expected)
    check_bundles(plan, expected)
    return plan
